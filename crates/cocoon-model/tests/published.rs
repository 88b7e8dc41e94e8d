//! The archive against GNU tar's under the published flags, byte by byte, and read by Python's tarfile; the hash file
//! against `veritysetup`'s. A test says so where its tool is missing; `.ci/run verity` has all of them.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use cocoon_model::{Outputs, pack};
use proptest::prelude::*;
use support::{Place, unwatched};

/// The flags of the published `scripts/build-model`.
const TAR_FLAGS: [&str; 9] = [
    "--sort=name",
    "--format=posix",
    "--pax-option=exthdr.name=%d/PaxHeaders/%f",
    "--pax-option=delete=atime,delete=ctime",
    "--clamp-mtime",
    "--mtime=@0",
    "--numeric-owner",
    "--owner=0",
    "--group=0",
];

/// Whether a program answers to `--version`, with these words; says so where not.
fn there_is(program: &str, words: &str) -> bool {
    let output = Command::new(program).arg("--version").output();
    let found = output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(words));
    if !found {
        eprintln!("skipped: there is no {program} ({words}) here");
    }
    found
}

/// What the published tool makes of a directory: GNU tar's archive and 1 to 4096 zeros.
fn gnu_archive(directory: &Path, out: &Path) -> Vec<u8> {
    let status = Command::new("tar")
        .env("LC_ALL", "C")
        .arg("-cf")
        .arg(out)
        .arg("-C")
        .arg(directory)
        .arg(".")
        .args(TAR_FLAGS)
        .arg("--mode=go+u,go-w")
        .status();
    assert!(status.unwrap().success());
    let mut bytes = fs::read(out).unwrap();
    bytes.resize(bytes.len() + 4096 - bytes.len() % 4096, 0);
    fs::remove_file(out).unwrap();
    bytes
}

fn assert_like_gnu(place: &Place) {
    let expected = gnu_archive(&place.model, &place.root.path().join("gnu.tar"));
    pack(&place.model, Outputs { archive: &place.out, hash_tree: None }, &mut unwatched).unwrap();
    let found = fs::read(&place.out).unwrap();
    let differs = found.iter().zip(&expected).position(|(a, b)| a != b);
    assert_eq!((differs, found.len()), (None, expected.len()), "the first different byte, and the length");
}

/// Everything that a header can say in more than one way.
fn odd_model() -> Place {
    let place = Place::with_model();
    let long = "long-".repeat(30);
    for name in ["sub-x", "n".repeat(98).as_str(), "m".repeat(99).as_str(), "mo\u{308}del.txt", long.as_str()]
    {
        fs::write(place.model.join(name), name).unwrap();
    }
    fs::create_dir_all(place.model.join("sub").join(&long).join(&long)).unwrap();
    fs::write(place.model.join("sub").join(&long).join(&long).join("f"), "f").unwrap();
    fs::create_dir(place.model.join("empty")).unwrap();
    fs::create_dir(place.model.join("größe")).unwrap();
    fs::write(place.model.join("größe/x"), "x").unwrap();
    symlink("config.json", place.model.join("link")).unwrap();
    symlink("größe", place.model.join("short-link")).unwrap();
    symlink(format!("sub/{long}"), place.model.join(format!("link-{long}"))).unwrap();
    for (name, mode) in
        [("sub-x", 0o750), ("config.json", 0o600), (".gitattributes", 0o444), ("empty", 0o700)]
    {
        fs::set_permissions(place.model.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    place
}

#[test]
fn an_archive_is_that_of_gnu_tar_with_the_published_flags() {
    if there_is("tar", "GNU tar") {
        assert_like_gnu(&odd_model());
    }
}

#[test]
fn python_finds_in_an_archive_what_was_packed() {
    if !there_is("python3", "Python 3") {
        return;
    }
    let place = odd_model();
    pack(&place.model, Outputs { archive: &place.out, hash_tree: None }, &mut unwatched).unwrap();
    let script = r#"
import os, sys, tarfile
model, archive = sys.argv[1:]
found, read = set(), tarfile.open(archive)
for member in read:
    path = os.path.join(model, member.name)
    found.add(os.path.normpath(path))
    assert (member.uid, member.gid, member.mtime, member.uname, member.gname) == (0, 0, 0, "", ""), member
    if member.issym():
        assert os.readlink(path) == member.linkname, member
    elif member.isfile():
        assert open(path, "rb").read() == read.extractfile(member).read(), member
    else:
        assert member.isdir() and os.path.isdir(path), member
there = {os.path.normpath(model)}
for top, directories, files in os.walk(model):
    there |= {os.path.join(top, name) for name in directories + files}
assert found == there, found ^ there
"#;
    let output =
        Command::new("python3").args(["-c", script]).args([&place.model, &place.out]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_hash_file_is_that_of_veritysetup_and_verifies_with_it() {
    if !there_is("veritysetup", "veritysetup") {
        return;
    }
    let place = odd_model();
    fs::write(place.model.join("large"), vec![7; 3 << 20]).unwrap();
    let [tree, their_tree, their_hash] =
        ["tree", "their-tree", "their-hash"].map(|name| place.root.path().join(name));
    let outputs = Outputs { archive: &place.out, hash_tree: Some(&tree) };
    let hash = pack(&place.model, outputs, &mut unwatched).unwrap().hash.to_string();
    let format = Command::new("veritysetup")
        .arg("format")
        .arg("--uuid=645ac31f-7610-42e1-8434-9d733699eac0")
        .arg("--salt=00010203040506070809101a1b1c1d1e1f")
        .args([&place.out, &their_tree])
        .arg(format!("--root-hash-file={}", their_hash.display()))
        .output();
    assert!(format.unwrap().status.success());
    assert_eq!(fs::read_to_string(&their_hash).unwrap(), hash);
    assert!(fs::read(&tree).unwrap() == fs::read(&their_tree).unwrap(), "the hash files differ");
    let verified = Command::new("veritysetup").arg("verify").args([&place.out, &tree]).arg(&hash).output();
    assert!(verified.unwrap().status.success());
}

/// A name as people and programs make them, and longer than a header has room for.
fn name() -> impl Strategy<Value = String> {
    let parts = prop::collection::vec("[a-z.~ ()+-]{1,9}|[A-Z0-9_]{1,40}|[äßλ漢]{1,4}", 1..4);
    parts.prop_map(|parts| parts.concat()).prop_filter("a name", |name| {
        !["", ".", "..", ".cache"].contains(&name.as_str()) && name.len() <= 200
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_directory_s_archive_is_that_of_gnu_tar(
        files in prop::collection::vec((prop::collection::vec(name(), 1..4), 0_usize..3000), 0..12)
    ) {
        if !there_is("tar", "GNU tar") {
            return Ok(());
        }
        let place = Place::with_model();
        for (path, size) in files {
            let path = path.iter().fold(place.model.clone(), |path, name| path.join(name));
            // What is a file already can be no directory, and the other way round: that name is left out.
            if fs::create_dir_all(path.parent().unwrap()).is_ok() && !path.is_dir() {
                fs::write(path, vec![b'x'; size]).unwrap();
            }
        }
        assert_like_gnu(&place);
    }
}
