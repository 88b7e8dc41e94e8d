//! Packing, measuring and verifying directories and archives.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod support;

use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use cocoon_model::{
    MAX_DEPTH, MAX_ENTRIES, MAX_MEMBER_BYTES, ModelError, Outputs, Progress, Refusal, RootHash, check,
    measure, pack, verify,
};
use support::{Place, entries_in, unwatched};

fn archive(path: &Path) -> Outputs<'_> {
    Outputs { archive: path, hash_tree: None }
}

#[test]
fn a_directory_and_its_archive_have_the_same_hash_wherever_they_are() {
    let (one, two) = (Place::with_model(), Place::with_model());
    let made = pack(&one.model, archive(&one.out), &mut unwatched).unwrap();
    assert_eq!(made.bytes, fs::metadata(&one.out).unwrap().len());
    assert_eq!(made.files, Some(5));
    assert_eq!(measure(&two.model, &mut unwatched).unwrap(), made);
    let read = measure(&one.out, &mut unwatched).unwrap();
    assert_eq!((read.hash, read.bytes, read.files), (made.hash, made.bytes, None));
    verify(&one.out, &made.hash, &mut unwatched).unwrap();
    verify(&two.model, &made.hash, &mut unwatched).unwrap();
}

#[test]
fn owners_times_and_the_mask_of_the_downloader_make_no_difference() {
    let place = Place::with_model();
    let hash = measure(&place.model, &mut unwatched).unwrap().hash;
    for (path, mode) in [("", 0o700), ("config.json", 0o600), ("sub", 0o700), ("weights.safetensors", 0o666)]
    {
        fs::set_permissions(place.model.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    let file = File::options().write(true).open(place.model.join("config.json")).unwrap();
    file.set_modified(UNIX_EPOCH + Duration::from_secs(86_400)).unwrap();
    fs::create_dir(place.model.join(".cache")).unwrap();
    fs::write(place.model.join(".cache/notes"), "of the downloader").unwrap();
    verify(&place.model, &hash, &mut unwatched).unwrap();
}

#[test]
fn any_other_change_is_another_model() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 7] = [
        ("a byte", |model| fs::write(model.join("config.json"), "{ }").unwrap()),
        ("a file more", |model| fs::write(model.join("more"), "").unwrap()),
        ("a file less", |model| fs::remove_file(model.join("sub/a")).unwrap()),
        ("another name", |model| fs::rename(model.join("sub/a"), model.join("sub/b")).unwrap()),
        ("an empty directory", |model| fs::create_dir(model.join("none")).unwrap()),
        ("a file to be run", |model| {
            fs::set_permissions(model.join("config.json"), fs::Permissions::from_mode(0o755)).unwrap();
        }),
        ("a cache further down", |model| fs::create_dir(model.join("sub/.cache")).unwrap()),
    ];
    let hash = measure(&Place::with_model().model, &mut unwatched).unwrap().hash;
    for (what, change) in changes {
        let place = Place::with_model();
        change(&place.model);
        let error = verify(&place.model, &hash, &mut unwatched).unwrap_err();
        let ModelError::Mismatch { expected, found, .. } = error else { panic!("{what}: {error}") };
        assert!(expected == hash && found != hash, "{what}");
    }
}

#[test]
fn a_damaged_archive_is_another_model_and_a_cut_one_is_none() {
    let place = Place::with_model();
    let hash = pack(&place.model, archive(&place.out), &mut unwatched).unwrap().hash;
    let mut bytes = fs::read(&place.out).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&place.out, &bytes).unwrap();
    let error = verify(&place.out, &hash, &mut unwatched).unwrap_err();
    assert!(matches!(error, ModelError::Mismatch { .. }), "{error}");
    bytes.pop();
    fs::write(&place.out, &bytes).unwrap();
    let error = verify(&place.out, &hash, &mut unwatched).unwrap_err();
    assert!(matches!(error, ModelError::NoArchive { .. }), "{error}");
    fs::write(&place.out, "").unwrap();
    assert!(matches!(measure(&place.out, &mut unwatched), Err(ModelError::NoArchive { bytes: 0, .. })));
}

#[test]
fn what_would_not_come_out_the_same_elsewhere_is_refused_with_its_place() {
    type Change = fn(&Path);
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let cases: [(&str, Refusal, Change); 11] = [
        ("x", Refusal::LinkOut, |x| symlink("/etc/passwd", x).unwrap()),
        ("x", Refusal::LinkOut, |x| symlink("../other", x).unwrap()),
        ("sub/x", Refusal::LinkOut, |x| symlink("../../other", x).unwrap()),
        // Where `sub` were a link to somewhere higher, this would lead out.
        ("x", Refusal::LinkOut, |x| symlink("sub/../other", x).unwrap()),
        ("x", Refusal::HardLink, |x| fs::hard_link(x.with_file_name("config.json"), x).unwrap()),
        ("x", Refusal::Special, |x| drop(std::os::unix::net::UnixListener::bind(x).unwrap())),
        ("bad\nname", Refusal::Name, |x| fs::write(x, "").unwrap()),
        ("x", Refusal::ModeBits, |x| fs::write(x, "").unwrap()),
        ("sub", Refusal::ModeBits, |_| ()),
        ("x", Refusal::Ancient, |x| {
            let file = File::create(x).unwrap();
            file.set_modified(UNIX_EPOCH - Duration::from_secs(1)).unwrap();
        }),
        ("x", Refusal::Name, |x| symlink("bad\nname", x).unwrap()),
    ];
    for (name, why, make) in cases {
        let place = Place::with_model();
        let path = place.model.join(name);
        make(&path);
        if why == Refusal::ModeBits {
            set_mode(&path, if path.is_dir() { 0o2755 } else { 0o4755 });
        }
        let error = pack(&place.model, archive(&place.out), &mut unwatched).unwrap_err();
        let ModelError::Refused { path: told, why: found } = &error else { panic!("{name}: {error}") };
        assert_eq!((*found, told), (why, &path), "{error}");
        assert_eq!(entries_in(place.root.path()), ["model"], "something was left behind");
    }
}

#[test]
fn links_within_the_directory_are_kept_as_they_are() {
    let place = Place::with_model();
    let plain = measure(&place.model, &mut unwatched).unwrap();
    symlink("config.json", place.model.join("link")).unwrap();
    symlink("../weights.safetensors", place.model.join("sub/up")).unwrap();
    symlink("./sub", place.model.join("directory")).unwrap();
    let linked = measure(&place.model, &mut unwatched).unwrap();
    assert_eq!(linked.files, plain.files);
    assert_ne!(linked.hash, plain.hash);
}

#[test]
fn directories_are_followed_down_to_a_limit() {
    let place = Place::with_model();
    let deep = |levels: usize| ["d"].repeat(levels).join("/");
    fs::create_dir_all(place.model.join(deep(MAX_DEPTH - 1))).unwrap();
    measure(&place.model, &mut unwatched).unwrap();
    fs::create_dir(place.model.join(deep(MAX_DEPTH))).unwrap();
    let error = measure(&place.model, &mut unwatched).unwrap_err();
    assert!(matches!(error, ModelError::Refused { why: Refusal::TooDeep, .. }), "{error}");
}

#[test]
fn a_directory_of_more_bytes_than_an_archive_may_have_is_refused_before_it_is_read() {
    let place = Place::with_model();
    for part in 0..3 {
        let sparse = File::create(place.model.join(format!("large-{part}"))).unwrap();
        // Not every file system can pretend so much.
        if sparse.set_len(6 << 40).is_err() {
            return;
        }
    }
    let error = measure(&place.model, &mut unwatched).unwrap_err();
    assert!(matches!(error, ModelError::Refused { why: Refusal::TooLarge, .. }), "{error}");
}

#[test]
fn an_output_is_neither_overwritten_nor_packed_itself() {
    let place = Place::with_model();
    fs::write(&place.out, "precious").unwrap();
    let error = pack(&place.model, archive(&place.out), &mut unwatched).unwrap_err();
    assert!(matches!(error, ModelError::Exists { .. }), "{error}");
    assert_eq!(fs::read_to_string(&place.out).unwrap(), "precious");
    let inside = place.model.join("sub/model.tar");
    let error = pack(&place.model, archive(&inside), &mut unwatched).unwrap_err();
    assert!(matches!(error, ModelError::OutputInside { .. }), "{error}");
    let error = pack(&place.root.path().join("none"), archive(&inside), &mut unwatched).unwrap_err();
    assert!(matches!(error, ModelError::Read { .. }), "{error}");
}

#[test]
fn a_cancelled_packing_leaves_nothing_behind() {
    let place = Place::with_model();
    let tree = place.root.path().join("tree");
    let outputs = Outputs { archive: &place.out, hash_tree: Some(&tree) };
    let mut told = None;
    let error = pack(&place.model, outputs, &mut |progress| {
        told = Some(progress);
        ControlFlow::Break(())
    });
    assert!(matches!(error, Err(ModelError::Cancelled)));
    let Progress { done, total } = told.unwrap();
    assert!(done > 0 && done <= total, "{done} of {total}");
    assert_eq!(entries_in(place.root.path()), ["model"]);
}

#[test]
fn a_file_that_grows_meanwhile_is_noticed() {
    let place = Place::with_model();
    // The first piece is 8 MiB: what comes after it is still to be opened when the callback runs.
    fs::write(place.model.join("a-large"), vec![1; 20 << 20]).unwrap();
    let grown = place.model.join("weights.safetensors");
    let error = measure(&place.model, &mut |_| {
        fs::write(&grown, "more than before").unwrap();
        ControlFlow::Continue(())
    });
    let Err(ModelError::Changed { path }) = error else { panic!("{error:?}") };
    assert_eq!(path, grown);
}

#[test]
fn an_archive_that_is_cut_meanwhile_is_noticed() {
    let place = Place::with_model();
    fs::write(&place.out, vec![1; 20 << 20]).unwrap();
    let error = measure(&place.out, &mut |_| {
        File::options().write(true).open(&place.out).unwrap().set_len((8 << 20) + 1000).unwrap();
        ControlFlow::Continue(())
    });
    assert!(matches!(error, Err(ModelError::Changed { .. })), "{error:?}");
}

#[test]
fn what_is_neither_file_nor_directory_is_no_model() {
    let place = Place::with_model();
    let _socket = std::os::unix::net::UnixListener::bind(&place.out).unwrap();
    for path in [place.out.as_path(), Path::new("/dev/zero")] {
        let error = measure(path, &mut unwatched).unwrap_err();
        assert!(matches!(error, ModelError::Refused { why: Refusal::Special, .. }), "{error}");
    }
}

#[test]
fn so_many_files_are_taken_and_no_more() {
    let root = tempfile::tempdir().unwrap();
    // The directory itself is an entry, too.
    (1..MAX_ENTRIES).for_each(|number| drop(File::create(root.path().join(number.to_string())).unwrap()));
    let image = measure(root.path(), &mut unwatched).unwrap();
    assert_eq!(image.files, Some(MAX_ENTRIES as u64 - 1));
    File::create(root.path().join("more")).unwrap();
    let error = measure(root.path(), &mut unwatched).unwrap_err();
    assert!(matches!(error, ModelError::Refused { why: Refusal::TooMany, .. }), "{error}");
}

#[test]
fn a_path_is_taken_up_to_a_limit() {
    let place = Place::with_model();
    let mut directory = place.model.clone();
    // "./", 4 directories of 200 bytes and their "/".
    (0..4).for_each(|_| directory.push("d".repeat(200)));
    fs::create_dir_all(&directory).unwrap();
    let room = MAX_MEMBER_BYTES - 2 - 4 * 201;
    fs::write(directory.join("n".repeat(room)), "").unwrap();
    measure(&place.model, &mut unwatched).unwrap();
    fs::write(directory.join("n".repeat(room + 1)), "").unwrap();
    let error = measure(&place.model, &mut unwatched).unwrap_err();
    assert!(matches!(error, ModelError::Refused { why: Refusal::TooLong, .. }), "{error}");
}

#[test]
fn progress_ends_at_the_whole() {
    let place = Place::with_model();
    fs::write(place.model.join("large"), vec![1; 20 << 20]).unwrap();
    let mut steps = Vec::new();
    let image = measure(&place.model, &mut |progress| {
        steps.push(progress);
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(steps.len() == 3 && steps.is_sorted_by_key(|step| step.done), "{steps:?}");
    assert_eq!(steps.last(), Some(&Progress { done: image.bytes, total: image.bytes }));
}

#[test]
fn a_checked_model_notices_when_its_files_are_replaced() {
    let place = Place::with_model();
    pack(&place.model, archive(&place.out), &mut unwatched).unwrap();
    for path in [&place.model, &place.out] {
        let checked = check(path, &mut unwatched).unwrap();
        assert!(checked.is_unchanged().unwrap());
        assert_eq!(checked.path(), path);
    }
    let (directory, file) =
        (check(&place.model, &mut unwatched).unwrap(), check(&place.out, &mut unwatched).unwrap());
    fs::write(place.model.join("sub/a"), "another").unwrap();
    assert!(!directory.is_unchanged().unwrap());
    let copy = place.root.path().join("copy");
    fs::copy(&place.out, &copy).unwrap();
    fs::rename(&copy, &place.out).unwrap();
    assert!(!file.is_unchanged().unwrap());
    fs::remove_file(&place.out).unwrap();
    assert!(file.is_unchanged().is_err());
}

#[test]
fn a_mismatch_names_both_hashes() {
    let place = Place::with_model();
    let found = measure(&place.model, &mut unwatched).unwrap().hash;
    let expected = RootHash([0; 32]);
    let message = verify(&place.model, &expected, &mut unwatched).unwrap_err().to_string();
    assert!(message.contains(&found.to_string()) && message.contains(&expected.to_string()), "{message}");
}
