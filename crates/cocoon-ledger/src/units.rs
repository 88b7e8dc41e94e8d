//! Amounts as integers with names. Arithmetic is checked: what does not fit is an error, never a wrap.

use std::fmt;

/// An amount that does not fit its type. Nothing was changed by the operation that returned it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("amount overflow: {what} does not fit")]
pub struct Overflow {
    /// Which amount overflowed.
    pub what: &'static str,
}

/// A number outside the range its unit allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value} is out of range {min}..={max}")]
pub struct OutOfRange {
    /// Which number.
    pub what: &'static str,
    /// The value that was offered.
    pub value: i64,
    /// The smallest allowed value.
    pub min: i64,
    /// The largest allowed value.
    pub max: i64,
}

/// One TON in nanoton.
pub const NANOTON_PER_TON: u64 = 1_000_000_000;

/// Largest token counter: counters travel as signed 64-bit integers.
pub const MAX_COUNTER: u64 = i64::MAX.unsigned_abs();

macro_rules! amount {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// The number alone.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The sum, or `None` where it does not fit.
            pub const fn checked_add(self, other: Self) -> Option<Self> {
                match self.0.checked_add(other.0) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The difference, or `None` where `other` is larger.
            pub const fn checked_sub(self, other: Self) -> Option<Self> {
                match self.0.checked_sub(other.0) {
                    Some(difference) => Some(Self(difference)),
                    None => None,
                }
            }

            /// The product with a plain number, or `None` where it does not fit.
            pub const fn checked_mul(self, factor: u64) -> Option<Self> {
                match self.0.checked_mul(factor) {
                    Some(product) => Some(Self(product)),
                    None => None,
                }
            }

            /// The difference, zero where `other` is larger: for "what is left" of a limit.
            pub const fn left_after(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }
        }
    };
}

amount! {
    /// Money, in nanoton (10^-9 TON).
    Nanoton
}
amount! {
    /// Tokens after coefficient and multiplier: the unit that counters count and contracts pay by.
    AdjustedTokens
}
amount! {
    /// Tokens as an engine counts them.
    Tokens
}
amount! {
    /// Nanoton per adjusted token.
    PricePerToken
}

impl Nanoton {
    /// The amount in nanoton.
    pub const fn nano(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Nanoton {
    /// In TON with up to nine decimals and the unit: `1.5 TON`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, nano) = (self.0 / NANOTON_PER_TON, self.0 % NANOTON_PER_TON);
        if nano == 0 {
            return write!(f, "{whole} TON");
        }
        let decimals = format!("{nano:09}");
        write!(f, "{whole}.{} TON", decimals.trim_end_matches('0'))
    }
}

impl fmt::Display for AdjustedTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for PricePerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} nanoton", self.0)
    }
}

impl AdjustedTokens {
    /// What these tokens cost at `price`, or `None` where that does not fit.
    pub const fn checked_cost(self, price: PricePerToken) -> Option<Nanoton> {
        match self.0.checked_mul(price.0) {
            Some(cost) => Some(Nanoton(cost)),
            None => None,
        }
    }

    /// From a signed number of the wire; negative ones become zero.
    pub const fn from_wire(value: i64) -> Self {
        if value < 0 { Self(0) } else { Self(value.unsigned_abs()) }
    }

    /// As a signed number of the wire; what does not fit becomes the largest one. Counters of a
    /// [`Ledger`](crate::Ledger) always fit.
    pub fn to_wire(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }
}

/// How dear a worker is, in 1/1000: 1000 charges each token once. Valid from 0 to 999,999,999.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Coefficient(u32);

impl Coefficient {
    /// The largest valid coefficient.
    pub const MAX: Self = Self(999_999_999);
    /// Each token is charged once.
    pub const ONE: Self = Self(1000);

    /// Checks the range.
    ///
    /// # Errors
    /// [`OutOfRange`] above [`Coefficient::MAX`].
    pub fn new(thousandths: u32) -> Result<Self, OutOfRange> {
        Self::from_wire(i64::from(thousandths))
    }

    /// From a signed number of the wire or of a configuration.
    ///
    /// # Errors
    /// [`OutOfRange`] for negative numbers and above [`Coefficient::MAX`].
    pub fn from_wire(thousandths: i64) -> Result<Self, OutOfRange> {
        match u32::try_from(thousandths) {
            Ok(value) if value <= Self::MAX.0 => Ok(Self(value)),
            _ => Err(OutOfRange {
                what: "coefficient",
                value: thousandths,
                min: 0,
                max: i64::from(Self::MAX.0),
            }),
        }
    }

    /// The number in 1/1000.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The number in 1/1000 as the wire carries it.
    pub const fn to_wire(self) -> i32 {
        // `MAX` is below `i32::MAX`, so the sign bit is never set.
        self.0.cast_signed()
    }
}

impl fmt::Display for Coefficient {
    /// As a factor: `1.5` for 1500.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// The weight of a token class, in 1/10000, set by the root contract: 10000 counts each token once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Multiplier(pub u32);

impl Multiplier {
    /// Each token counts once.
    pub const ONE: Self = Self(10_000);

    /// The number in 1/10000.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for Multiplier {
    fn default() -> Self {
        Self::ONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoton_reads_as_ton() {
        for (nano, text) in [
            (0, "0 TON"),
            (1, "0.000000001 TON"),
            (1_500_000_000, "1.5 TON"),
            (15_000_000_000, "15 TON"),
            (u64::MAX, "18446744073.709551615 TON"),
        ] {
            assert_eq!(Nanoton(nano).to_string(), text);
        }
    }

    #[test]
    fn a_coefficient_keeps_its_range() {
        assert_eq!(Coefficient::new(999_999_999), Ok(Coefficient::MAX));
        for bad in [-1, 1_000_000_000, i64::MIN, i64::MAX] {
            assert!(Coefficient::from_wire(bad).is_err(), "{bad} was accepted");
        }
        assert_eq!(Coefficient::new(1500).unwrap().to_string(), "1.5");
        assert_eq!(Coefficient::new(1000).unwrap().to_string(), "1");
        assert_eq!(Coefficient::new(0).unwrap().to_string(), "0");
        assert_eq!(Coefficient::new(10_000).unwrap().to_string(), "10");
    }

    #[test]
    fn arithmetic_refuses_to_wrap() {
        assert_eq!(Nanoton(u64::MAX).checked_add(Nanoton(1)), None);
        assert_eq!(Nanoton(1).checked_sub(Nanoton(2)), None);
        assert_eq!(AdjustedTokens(u64::MAX).checked_cost(PricePerToken(2)), None);
        assert_eq!(AdjustedTokens::from_wire(i64::MIN), AdjustedTokens(0));
        assert_eq!(AdjustedTokens(u64::MAX).to_wire(), i64::MAX);
    }
}
