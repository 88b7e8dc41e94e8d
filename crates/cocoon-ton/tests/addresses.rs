//! Textual forms of addresses.

#![allow(clippy::unwrap_used)]

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use cocoon_ton::{Address, AddressFormat, AddressParseError};
use proptest::prelude::*;

// The same account, as wallets and explorers write it.
const RAW: &str = "0:2ecf5e47d591eb67fa6c56b02b6bb1de6a530855e16ad3082eaa59859e8d5fdc";
const WIRE: &str = "UQAuz15H1ZHrZ_psVrAra7HealMIVeFq0wguqlmFno1f3B-m";

#[test]
fn the_forms_of_one_account_are_one_address() {
    let address: Address = WIRE.parse().unwrap();
    assert_eq!(address.to_raw_string(), RAW);
    assert_eq!(RAW.parse::<Address>().unwrap(), address);
    assert_eq!(address.to_string(), WIRE);
    assert_eq!(Address::parse(RAW).unwrap(), (address, None));
}

#[test]
fn the_first_characters_tell_the_four_formats_apart() {
    let address: Address = RAW.parse().unwrap();
    for (bounceable, testnet, start) in
        [(true, false, "EQ"), (false, false, "UQ"), (true, true, "kQ"), (false, true, "0Q")]
    {
        let text = address.to_friendly_string(AddressFormat { bounceable, testnet, url_safe: true });
        assert!(text.starts_with(start), "{text}");
    }
    assert!(address.to_wire_string(true).starts_with("0Q"));
}

#[test]
fn a_masterchain_address_keeps_its_workchain() {
    let address = Address::new(-1, [0x33; 32]).unwrap();
    assert!(address.to_raw_string().starts_with("-1:3333"));
    assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
}

#[test]
fn each_way_to_be_no_address_has_its_own_error() {
    use AddressParseError as E;
    let error = |text: &str| text.parse::<Address>().unwrap_err();
    assert_eq!(error(""), E::Length(0));
    assert_eq!(error(&WIRE[..47]), E::Length(47));
    assert_eq!(error(&format!("{WIRE}=")), E::Length(49));
    assert!(matches!(error(&WIRE.replace('_', "!")), E::Alphabet(_)));
    assert!(matches!(error(&WIRE.replace("UQAu", "UQ+u")), E::Alphabet(_)), "both alphabets at once");
    assert!(matches!(error(&WIRE.replace("UQAu", "UQAv")), E::Checksum(_)));
    assert!(matches!(error("0:2ecf"), E::Raw(_)));
    assert!(matches!(error("x:2ecf"), E::Raw(_)));
    assert_eq!(error(&RAW.replacen("0:", "1:", 1)), E::Workchain(1));
    assert_eq!(error(&RAW.replacen("0:", "999:", 1)), E::Workchain(999));
}

/// A friendly address with a right checksum over whatever tag and workchain.
fn with_head(tag: u8, workchain: u8) -> String {
    let mut bytes = vec![tag, workchain];
    bytes.extend([7; 32]);
    let crc = bytes.iter().fold(0u16, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| (crc << 1) ^ (0x1021 * (crc >> 15)))
    });
    bytes.extend(crc.to_be_bytes());
    URL_SAFE.encode(bytes)
}

#[test]
fn only_the_known_tags_and_workchains_pass() {
    let passing: Vec<u8> =
        (0..=u8::MAX).filter(|&tag| with_head(tag, 0).parse::<Address>().is_ok()).collect();
    assert_eq!(passing, [0x11, 0x51, 0x91, 0xd1]);
    assert_eq!(with_head(0x12, 0).parse::<Address>(), Err(AddressParseError::Tag(0x12)));
    let passing: Vec<u8> =
        (0..=u8::MAX).filter(|&wc| with_head(0x11, wc).parse::<Address>().is_ok()).collect();
    assert_eq!(passing, [0, 255]);
}

proptest! {
    #[test]
    fn every_form_of_every_address_reads_back(
        hash: [u8; 32], masterchain: bool, bounceable: bool, testnet: bool, url_safe: bool,
    ) {
        let address = Address::new(if masterchain { -1 } else { 0 }, hash).unwrap();
        prop_assert_eq!(address.to_raw_string().parse::<Address>().unwrap(), address);
        let format = AddressFormat { bounceable, testnet, url_safe };
        let text = address.to_friendly_string(format);
        let (parsed, parsed_format) = Address::parse(&text).unwrap();
        prop_assert_eq!(parsed, address);
        let ambiguous = !text.contains(['+', '/', '-', '_']);
        let expected = AddressFormat { url_safe: url_safe || ambiguous, ..format };
        prop_assert_eq!(parsed_format, Some(expected));
    }

    #[test]
    fn one_wrong_character_is_always_noticed(hash: [u8; 32], at in 0usize..48, to in "[A-Za-z0-9_-]") {
        let text = Address::basechain(hash).to_string();
        let mut changed = text.clone();
        changed.replace_range(at..=at, &to);
        prop_assume!(changed != text);
        prop_assert!(changed.parse::<Address>().is_err());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in any::<String>()) {
        let _ = text.parse::<Address>();
    }
}
