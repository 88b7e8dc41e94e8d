//! The hash tree against what `veritysetup` 2.6.1 made of the same data with the published parameters.
#![allow(clippy::unwrap_used)]

use std::io::{Cursor, ErrorKind};

use cocoon_model::RootHash;
use cocoon_model::verity::{BLOCK_BYTES, SALT, TreeBuilder, TreeFile, block_hash, root_hash, superblock};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

/// Blocks of data, the root hash, and the hash file's length and SHA-256. The numbers are at the edges of one and two
/// levels of the tree.
const VECTORS: [(u32, &str, usize, &str); 9] = [
    (
        1,
        "268230a0d5b8d356ec2b3c81d0e415ab9e46369aa5111f6f8b2541f41583672c",
        4096,
        "3e35a0050395ce5656db243999a2310e28076d4cd853cfbeedd430bd42f7caaf",
    ),
    (
        2,
        "eeb165045291d7e8d90f8b20ab949033090d8a2eecc42f1293c88217a4879de0",
        8192,
        "476b7441a193913672d57f210722c4a560d0c7f127b42467e59d320705e488d2",
    ),
    (
        3,
        "dd5e1c7edcdc747df1efe4f42d42baa4c977b301f8e0daf61639aa10ba1d2a71",
        8192,
        "c3f832f8075544298c32dad3d47ce962c1dd3acec13530e619058cce5463a317",
    ),
    (
        127,
        "211e7483170fb132e5db0533b4084874c73876a468ae0207b7ee5ccbd7d606c5",
        8192,
        "fe96c823fa7e40bc05f08a4655529e0a951595fd7471ac5114a65ee3e7065c88",
    ),
    (
        128,
        "79ae4ecb251d48b112431a1cdcdecb632b14c408c1d39af67c5878de9ee8a4f6",
        8192,
        "f275a32b623ce6014a3ac33c620070ffc9c914c8cea9abffb77c87bff1e02084",
    ),
    (
        129,
        "8d46ee549730c474ccb77f22a6fc4c5b3ebf27362e35903441b151194b355790",
        16384,
        "1690b44a932f9b0b537eecdbef84c9fc1b40aef1710838a33053b7a508e229e0",
    ),
    (
        300,
        "2ced8a14557e872f918a6581e44dde8298610db1b2c82a4a9557808d0a321f2b",
        20480,
        "e3357725bab2a0422da828133a0486c0535b10b3f637e14bd4a2fadd6691530b",
    ),
    (
        16384,
        "276efb79858ee183a47dac54288c250a620caefaaaab787bb0a403492ca8a65b",
        532480,
        "f90ce9531f7afcbdfb33de7c276888bb28b5935737710b74b75590deaa123d6e",
    ),
    (
        16385,
        "78d9c2b6c509b352dff1684a951c2cc28a8af804b1202a52d29799b4392e272d",
        544768,
        "27008cf976838cdb22b7307b634a95e68c4ec2aab94ad61d9e70e500a0ece03c",
    ),
];

/// Block `number` of the test data: its number, over and over.
fn block(number: u32) -> [u8; BLOCK_BYTES] {
    number.to_le_bytes().repeat(BLOCK_BYTES / 4).try_into().unwrap()
}

fn hash_file(blocks: u32) -> (RootHash, Vec<u8>) {
    let mut out = Cursor::new(Vec::new());
    let mut tree = TreeBuilder::new(Some(TreeFile::new(&mut out, blocks.into()).unwrap()));
    (0..blocks).for_each(|number| tree.push(block_hash(&block(number))).unwrap());
    let root = tree.finish().unwrap();
    (root, out.into_inner())
}

fn sha256(bytes: &[u8]) -> String {
    RootHash(Sha256::digest(bytes).into()).to_string()
}

#[test]
fn root_hash_and_hash_file_are_those_of_veritysetup() {
    for (blocks, root, length, file) in VECTORS {
        let (found, bytes) = hash_file(blocks);
        assert_eq!(found.to_string(), root, "{blocks} blocks");
        assert_eq!((bytes.len(), sha256(&bytes).as_str()), (length, file), "{blocks} blocks");
        let data: Vec<u8> = (0..blocks).flat_map(block).collect();
        assert_eq!(root_hash(data.as_slice()).unwrap().to_string(), root, "{blocks} blocks");
    }
}

#[test]
fn data_that_is_no_whole_number_of_blocks_has_no_root_hash() {
    for bytes in [0, 1, 4095, 4097] {
        let error = root_hash(vec![0; bytes].as_slice()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{bytes} bytes");
    }
}

#[test]
fn a_hash_file_takes_exactly_the_data_it_was_laid_out_for() {
    for (planned, given) in [(129_u64, 128_u32), (128, 129), (2, 129), (129, 2), (300, 299 - 128)] {
        let mut tree = TreeBuilder::new(Some(TreeFile::new(Cursor::new(Vec::new()), planned).unwrap()));
        let pushed = (0..given).try_for_each(|number| tree.push(block_hash(&block(number))));
        assert!(pushed.and_then(|()| tree.finish()).is_err(), "planned {planned}, given {given}");
    }
}

#[test]
fn a_root_hash_is_64_hexadecimal_digits_in_lower_case() {
    let text = VECTORS[0].1;
    assert_eq!(text.parse::<RootHash>().unwrap().to_string(), text);
    for wrong in ["", &text[1..], &format!("{text}0"), &text.to_uppercase(), &text.replace('2', "g")] {
        assert!(wrong.parse::<RootHash>().is_err(), "{wrong:?}");
    }
}

/// The tree as it is described: level by level, everything in memory.
fn described(blocks: &[[u8; BLOCK_BYTES]]) -> (RootHash, Vec<u8>) {
    let salted = |block: &[u8]| <[u8; 32]>::from(Sha256::digest([&SALT[..], block].concat()));
    let mut hashes: Vec<_> = blocks.iter().map(|block| salted(block)).collect();
    let mut levels = Vec::new();
    while hashes.len() > 1 {
        let mut level = hashes.concat();
        level.resize(level.len().next_multiple_of(BLOCK_BYTES), 0);
        hashes = level.chunks(BLOCK_BYTES).map(salted).collect();
        levels.push(level);
    }
    levels.push(superblock(blocks.len() as u64).to_vec());
    levels.reverse();
    (RootHash(hashes[0]), levels.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_tree_built_in_one_pass_is_the_one_that_is_described(blocks in 1_u32..700) {
        let data: Vec<_> = (0..blocks).map(block).collect();
        prop_assert_eq!(hash_file(blocks), described(&data));
    }
}
