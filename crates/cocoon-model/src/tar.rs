//! The headers of the published archive: what GNU tar writes in its `posix` format (the pax interchange format of POSIX.1
//! `pax`, section "ustar Interchange Format" and "pax Interchange Format") with owner 0, time 0 and without access times.
//!
//! A header of 512 bytes says it all where the path and a link's target have at most 100 ASCII bytes and the file is
//! below 8 GiB. Otherwise an extended header comes before it, which has the whole values. ustar's own way to split a
//! long path over two fields is not used by GNU tar here, so neither by us.

/// Bytes of a block of the archive.
pub const BLOCK_BYTES: usize = 512;
/// The archive ends with zeros up to a multiple of this, GNU tar's 20 blocks of a record, at least two blocks.
pub const RECORD_BYTES: u64 = 10_240;
/// The published tool then adds zeros up to the next multiple of this, a whole 4096 where it is one already.
pub const ALIGNMENT_BYTES: u64 = 4096;
/// Largest length that eleven octal digits can say, in bytes.
pub const MAX_OCTAL: u64 = 0o777_7777_7777;
/// Bytes for a path, and for a link's target.
const NAME_FIELD_BYTES: usize = 100;
/// Mode of an extended header.
const EXTENDED_MODE: u32 = 0o644;

/// What a member of the archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A directory.
    Directory,
    /// A file of so many bytes.
    File(u64),
    /// A symbolic link with this target.
    Link(&'a str),
}

/// The headers of one member: `path` begins with `./`, a directory's ends with `/`.
#[must_use]
pub fn headers(path: &str, kind: Kind<'_>, mode: u32) -> Vec<u8> {
    let mut records = Vec::new();
    let (flag, size, target) = match kind {
        Kind::Directory => (b'5', 0, ""),
        Kind::File(size) => (b'0', size, ""),
        Kind::Link(target) => (b'2', 0, target),
    };
    // GNU tar's order. A short target that is not ASCII it leaves as it is.
    if target.len() > NAME_FIELD_BYTES {
        record(&mut records, "linkpath", target);
    }
    if path.len() > NAME_FIELD_BYTES || !path.is_ascii() {
        record(&mut records, "path", path);
    }
    let mut said = size;
    if size > MAX_OCTAL {
        record(&mut records, "size", &size.to_string());
        said = 0;
    }
    let mut bytes = Vec::new();
    if !records.is_empty() {
        let (directory, name) = split(path);
        let extended = format!("{directory}/PaxHeaders/{name}");
        bytes.extend(header(extended.as_bytes(), b'x', EXTENDED_MODE, records.len() as u64, b"", false));
        let padding = padding(records.len() as u64);
        bytes.append(&mut records);
        bytes.extend((0..padding).map(|_| 0));
    }
    bytes.extend(header(path.as_bytes(), flag, mode, said, target.as_bytes(), true));
    bytes
}

/// Zeros after so many bytes, up to the next block.
#[must_use]
pub fn padding(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES as u64) - bytes
}

/// Zeros after the last member of an archive with so many bytes of members.
#[must_use]
pub fn trailer(members: u64) -> u64 {
    let archive = (members + 2 * BLOCK_BYTES as u64).next_multiple_of(RECORD_BYTES);
    archive + (ALIGNMENT_BYTES - archive % ALIGNMENT_BYTES) - members
}

/// The mode that the archive has for a file's: what the owner may do, all may, except writing. As `--mode=go+u,go-w`.
#[must_use]
pub fn mode(of_file: u32) -> u32 {
    let owner = of_file >> 6 & 0o7;
    (of_file | owner << 3 | owner) & !0o022 & 0o7777
}

fn split(path: &str) -> (&str, &str) {
    let path = path.trim_end_matches('/');
    path.rsplit_once('/').unwrap_or((".", path))
}

/// `LENGTH KEYWORD=VALUE`, where the length counts itself.
fn record(records: &mut Vec<u8>, keyword: &str, value: &str) {
    let rest = format!(" {keyword}={value}\n");
    let mut length = rest.len();
    // Grows by a digit at most once more after the first guess.
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    records.extend(length.to_string().bytes());
    records.extend(rest.bytes());
}

/// One header. GNU tar leaves the device numbers of extended headers empty, and writes zeros for members.
fn header(path: &[u8], flag: u8, mode: u32, size: u64, target: &[u8], devices: bool) -> [u8; BLOCK_BYTES] {
    let mut header = [0; BLOCK_BYTES];
    let mut put = |place: usize, field: usize, bytes: &[u8]| {
        header.iter_mut().skip(place).take(field).zip(bytes).for_each(|(to, from)| *to = *from);
    };
    put(0, NAME_FIELD_BYTES, path);
    put(100, 8, format!("{mode:07o}\0").as_bytes());
    put(108, 8, b"0000000\0");
    put(116, 8, b"0000000\0");
    put(124, 12, format!("{size:011o}\0").as_bytes());
    put(136, 12, b"00000000000\0");
    // The checksum is over spaces in its own place.
    put(148, 8, b"        ");
    put(156, 1, &[flag]);
    put(157, NAME_FIELD_BYTES, target);
    put(257, 8, b"ustar\x0000");
    if devices {
        put(329, 16, b"0000000\x000000000\0");
    }
    let sum: u32 = header.iter().copied().map(u32::from).sum();
    header.iter_mut().skip(148).zip(format!("{sum:06o}\0").bytes()).for_each(|(to, from)| *to = from);
    header
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_record_counts_its_own_length_also_where_that_adds_a_digit() {
        for value in 0..1200 {
            let mut records = Vec::new();
            record(&mut records, "path", &"v".repeat(value));
            let text = String::from_utf8(records).unwrap();
            let (length, _) = text.split_once(' ').unwrap();
            assert_eq!(length.parse::<usize>().unwrap(), text.len());
        }
    }

    #[test]
    fn all_may_do_what_the_owner_may_except_writing() {
        for (from, to) in [(0o600, 0o644), (0o700, 0o755), (0o755, 0o755), (0o666, 0o644), (0o444, 0o444)] {
            assert_eq!(mode(from), to, "{from:o}");
        }
        assert_eq!(mode(0o2711), 0o2755);
        assert_eq!(mode(0o100_640), 0o644);
    }

    #[test]
    fn an_archive_ends_with_a_record_and_at_least_one_more_byte_up_to_a_block_of_the_device() {
        assert_eq!(trailer(512), 12_288 - 512);
        assert_eq!(trailer(10_240 - 1024), 12_288 - (10_240 - 1024));
        assert_eq!(trailer(10_240 - 512), 20_480 + 4096 - (10_240 - 512));
        // Two records are a multiple of 4096 already: a whole block is added.
        assert_eq!(trailer(20_480 - 1024), 20_480 + 4096 - (20_480 - 1024));
    }

    #[test]
    fn a_file_of_8_gib_needs_an_extended_header_and_one_byte_less_does_not() {
        assert_eq!(headers("./a", Kind::File(MAX_OCTAL), 0o644).len(), 512);
        let large = headers("./a", Kind::File(MAX_OCTAL + 1), 0o644);
        assert_eq!(large.len(), 3 * 512);
        assert!(large[512..].starts_with(b"19 size=8589934592\n"));
        assert_eq!(&large[2 * 512 + 124..2 * 512 + 136], b"00000000000\0");
    }
}
