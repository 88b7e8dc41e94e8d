//! Amounts of coins as people write and read them: `1.5 TON`, exact to the nanoton, never by way of a floating-point number.

use cocoon_ledger::Nanoton;
use cocoon_ton::NANOTON_PER_TON;
use serde_json::{Value, json};

/// Digits after the point: one nanoton is the smallest amount.
const DECIMALS: usize = 9;
/// Longest text that is looked at, in bytes.
const MAX_BYTES: usize = 64;

/// Reads an amount: TON with up to nine decimals (`1.5`, `1.5 TON`), or whole nanotons (`1500000000n`,
/// `1500000000 nano`, `1500000000 nanoton`). No signs, exponents, separators or missing digits.
///
/// # Errors
/// [`AmountError`].
pub(crate) fn parse(text: &str) -> Result<Nanoton, AmountError> {
    let text = text.trim();
    if text.len() > MAX_BYTES {
        return Err(AmountError::Form);
    }
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = text[digits.len()..].to_ascii_lowercase();
    let number = digits.trim_end_matches(' ');
    match unit.as_str() {
        "" if number.len() < digits.len() => Err(AmountError::Form),
        "" | "ton" => decimal(number, DECIMALS),
        "n" | "nano" | "nanoton" => decimal(number, 0),
        _ => Err(AmountError::Unit(unit)),
    }
    .map(Nanoton)
}

/// A number with at most so many decimals, times ten to their power.
///
/// # Errors
/// [`AmountError`], which speaks of amounts.
pub(crate) fn decimal(number: &str, decimals: usize) -> Result<u64, AmountError> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return Err(AmountError::Form),
        None => (number, ""),
    };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(AmountError::Form);
    }
    if fraction.len() > decimals {
        return Err(if decimals == 0 { AmountError::PartOfNanoton } else { AmountError::TooFine });
    }
    // Only digits stand here, so that what fails is the size.
    let zeros = "0".repeat(decimals - fraction.len());
    format!("{whole}{fraction}{zeros}").parse().map_err(|_| AmountError::TooLarge)
}

/// For machines: nanotons as a text, since many JSON readers round large numbers, and the amount as people read it.
pub(crate) fn to_json(amount: Nanoton) -> Value {
    json!({"nanoton": amount.nano().to_string(), "ton": amount.to_string()})
}

/// Why a text is no amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AmountError {
    /// Not digits with at most one point between them, and a unit.
    #[error("an amount is written 1.5 or \"1.5 TON\", or in nanotons 1500000000n; digits and one point only")]
    Form,
    /// A unit that is none.
    #[error("the unit '{0}' is not known; use TON (or nothing), or n for nanotons")]
    Unit(String),
    /// More than nine decimals.
    #[error("more than nine decimals: the smallest amount is 0.000000001 TON")]
    TooFine,
    /// `1.5n`.
    #[error("a nanoton has no parts; leave the n out to mean TON")]
    PartOfNanoton,
    /// Over 64 bits.
    #[error("more coins than there are: at most {} TON can be written", u64::MAX / NANOTON_PER_TON)]
    TooLarge,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn amounts_are_read_in_ton_and_in_nanoton() {
        for (text, nanoton) in [
            ("1.5", 1_500_000_000),
            ("1.5 TON", 1_500_000_000),
            ("1.5ton", 1_500_000_000),
            ("0", 0),
            ("007", 7_000_000_000),
            ("0.000000001", 1),
            ("1500000000n", 1_500_000_000),
            ("1500000000 nano", 1_500_000_000),
            (" 3 nanoton ", 3),
            ("18446744073.709551615", u64::MAX),
            ("18446744073709551615n", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(Nanoton(nanoton)), "{text}");
        }
    }

    #[test]
    fn what_is_not_exactly_an_amount_is_refused_with_its_reason() {
        for (text, error) in [
            ("", AmountError::Form),
            ("TON", AmountError::Form),
            ("1.", AmountError::Form),
            (".5", AmountError::Form),
            ("1.5.0", AmountError::Form),
            ("-1", AmountError::Form),
            ("+1", AmountError::Form),
            ("1,5", AmountError::Form),
            ("1_000", AmountError::Form),
            ("1 5", AmountError::Form),
            ("\u{661}", AmountError::Form),
            ("1e9", AmountError::Form),
            ("0x10", AmountError::Form),
            ("NaN", AmountError::Unit("nan".to_owned())),
            ("5 USD", AmountError::Unit("usd".to_owned())),
            ("0.0000000001", AmountError::TooFine),
            ("1.5n", AmountError::PartOfNanoton),
            ("18446744073.709551616", AmountError::TooLarge),
            ("18446744073709551616n", AmountError::TooLarge),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(parse(&"9".repeat(10_000)), Err(AmountError::Form));
    }

    #[test]
    fn an_amount_is_told_for_machines_without_rounding() {
        assert_eq!(to_json(Nanoton(1_500_000_000)), json!({"nanoton": "1500000000", "ton": "1.5 TON"}));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back_exactly(nanoton: u64) {
            prop_assert_eq!(parse(&Nanoton(nanoton).to_string()), Ok(Nanoton(nanoton)));
            let nano = format!("{nanoton}n");
            prop_assert_eq!(parse(&nano), Ok(Nanoton(nanoton)));
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,80}") {
            let _ = parse(&text);
        }
    }
}
