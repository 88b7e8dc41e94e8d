//! The fuzz targets over the committed corpus and over arbitrary bytes, so that `cargo test` runs them too.

use std::path::Path;

use cocoon_wire::fuzzing;
use proptest::collection::vec;
use proptest::prelude::*;

fn over_corpus(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty(), "{} has inputs", folder.display());
    for file in files {
        run(&std::fs::read(file).unwrap());
    }
}

#[test]
fn the_frame_target_finds_nothing_in_its_corpus() {
    over_corpus("frame", fuzzing::frame);
}

#[test]
fn the_packet_target_finds_nothing_in_its_corpus() {
    over_corpus("packet", fuzzing::packet);
}

proptest! {
    #[test]
    fn the_frame_target_finds_nothing_in_arbitrary_bytes(data in vec(any::<u8>(), 0..400)) {
        fuzzing::frame(&data);
    }

    #[test]
    fn the_frame_target_finds_nothing_in_frames_of_arbitrary_bytes(
        payloads in vec(vec(any::<u8>(), 0..60), 0..6),
    ) {
        let frame = |(seqno, payload): (usize, &Vec<u8>)| {
            [&(payload.len() as u32).to_le_bytes()[..], &(seqno as u32).to_le_bytes(), payload].concat()
        };
        fuzzing::frame(&payloads.iter().enumerate().flat_map(frame).collect::<Vec<_>>());
    }

    #[test]
    fn the_packet_target_finds_nothing_in_arbitrary_bytes(data in vec(any::<u8>(), 0..400)) {
        fuzzing::packet(&data);
    }
}
