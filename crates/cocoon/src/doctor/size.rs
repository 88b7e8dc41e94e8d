//! Sizes as people read them.

/// Bytes in a gibibyte.
pub(super) const GIB: u64 = 1 << 30;
/// Bytes in a mebibyte.
pub(super) const MIB: u64 = 1 << 20;

/// `23.5 GiB`, `640 MiB`.
pub(super) fn shown(bytes: u64) -> String {
    if bytes >= GIB {
        let tenths = bytes / (GIB / 10);
        return format!("{}.{} GiB", tenths / 10, tenths % 10);
    }
    format!("{} MiB", bytes / MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_one_digit_after_the_point() {
        for (bytes, text) in
            [(0, "0 MiB"), (640 * MIB, "640 MiB"), (GIB, "1.0 GiB"), (23 * GIB + GIB / 2, "23.5 GiB")]
        {
            assert_eq!(shown(bytes), text);
        }
        assert!(shown(u64::MAX).ends_with("GiB"));
    }
}
