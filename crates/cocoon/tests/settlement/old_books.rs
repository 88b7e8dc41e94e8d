//! A proxy whose books went back to an older copy must not sign with them.

use crate::fleet::{Fleet, GATEWAY, PROXY};
use crate::load::Load;
use crate::support::wait_for;

#[test]
fn a_proxy_with_an_old_copy_of_its_books_says_so_and_ends() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut fleet = Fleet::start(&runtime);
    fleet.wait_until_it_serves();
    fleet.processes[PROXY].kill();
    let dir = fleet.proxy.dir.clone();
    let files = || {
        let names = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.to_str().unwrap().contains("ledger.sqlite")).collect::<Vec<_>>()
    };
    let copy: Vec<_> = files().into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect();
    fleet.processes[PROXY].start();
    fleet.wait_until_it_serves();
    let load = Load::start(&fleet.gateway_http(), 4);
    wait_for("a commit after the copy was made", || {
        let stats = fleet.processes[PROXY].stats()?;
        let commits = stats["settlement"]["contracts"][0]["commit_seqno"].as_u64()?;
        (commits >= 3).then_some(())
    });
    load.stop();
    fleet.processes[GATEWAY].kill();
    fleet.processes[PROXY].kill();

    for path in files() {
        std::fs::remove_file(path).unwrap();
    }
    for (path, bytes) in copy {
        std::fs::write(path, bytes).unwrap();
    }
    fleet.processes[PROXY].start();
    assert_eq!(fleet.processes[PROXY].end(), Some(1));
    let log = fleet.processes[PROXY].log();
    assert!(
        log.contains("the ledger went back") && log.contains("restore the newest copy"),
        "{}",
        fleet.tails()
    );
}
