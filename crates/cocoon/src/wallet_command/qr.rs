//! Links that wallet programs open, and pictures of them.

use cocoon_ton::Address;
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

/// A link that opens a wallet program with receiver and, where given, amount in nanoton filled in.
pub(super) fn link(address: Address, testnet: bool, nanoton: Option<u64>) -> String {
    let wallet = address.to_wire_string(testnet);
    match nanoton {
        Some(nanoton) => format!("ton://transfer/{wallet}?amount={nanoton}"),
        None => format!("ton://transfer/{wallet}"),
    }
}

/// The text as a QR code of half blocks, for terminals, dark or light. `None` for a text too long for one.
pub(super) fn picture(text: &str) -> Option<String> {
    let code = QrCode::new(text).ok()?;
    // This library draws what it calls dark. Terminals are mostly dark themselves, so the light modules are drawn.
    let picture = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Some(picture)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_link_names_the_receiver_and_the_amount() {
        let address = Address::basechain([7; 32]);
        let wallet = address.to_wire_string(true);
        assert_eq!(link(address, true, None), format!("ton://transfer/{wallet}"));
        assert_eq!(link(address, true, Some(5)), format!("ton://transfer/{wallet}?amount=5"));
    }

    #[test]
    fn a_picture_is_a_square_of_half_blocks_with_a_margin() {
        let picture = picture(&link(Address::basechain([7; 32]), false, Some(1_500_000_000))).unwrap();
        assert!(picture.chars().all(|c| "█▀▄ \n".contains(c)), "{picture}");
        let lines: Vec<usize> = picture.lines().map(|line| line.chars().count()).collect();
        assert!(
            lines.iter().all(|&width| width == lines[0] && width.div_ceil(2) == lines.len()),
            "{lines:?}"
        );
        // The margin of a QR code is light.
        assert!(picture.starts_with('█'), "{picture}");
        assert!(super::picture(&"x".repeat(10_000)).is_none());
    }
}
