#![allow(clippy::unwrap_used)]

use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use cocoon_settle::proxy::ProxyPolicy;
use cocoon_settle::worker::WorkerPolicy;

use super::load::{fields, variable};
use super::*;

fn example(role: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{role}.toml")))
        .unwrap()
}

fn parse<T: RoleFile>(text: &str) -> anyhow::Result<T> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    load(Some(file.path()), std::iter::empty(), Vec::new())
}

fn complaint<T: RoleFile + std::fmt::Debug>(text: &str) -> String {
    format!("{:#}", parse::<T>(text).unwrap_err())
}

/// The example with every commented-out field switched on: a line `# name = value` is such a field.
fn switched_on(text: &str) -> String {
    let is_field = |rest: &str| {
        rest.split_once(" = ")
            .is_some_and(|(name, _)| name.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
    };
    let lines = text.lines().map(|line| match line.strip_prefix("# ") {
        Some(rest) if is_field(rest) => rest,
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap()
}

fn example_is_complete<T: RoleFile>() {
    let text = example(T::ROLE);
    parse::<T>(&text).unwrap();
    let all = switched_on(&text);
    parse::<T>(&all).unwrap_or_else(|error| panic!("with everything switched on: {error:#}"));
    let table: toml::Table = all.parse().unwrap();
    for field in fields::<T>().unwrap() {
        let mut place = Some(&toml::Value::Table(table.clone())).cloned();
        for part in field.name.split('.') {
            place = place.and_then(|value| value.get(part).cloned());
        }
        let role = T::ROLE;
        let shown = place.unwrap_or_else(|| panic!("examples/{role}.toml does not document {}", field.name));
        let commented_out =
            !text.lines().any(|line| line.starts_with(&format!("{} = ", last_part(&field.name))));
        if commented_out && !field.default.is_null() {
            let shown = serde_json::to_value(shown).unwrap();
            assert_eq!(shown, field.default, "examples/{role}.toml shows a wrong default of {}", field.name);
        }
        let variable = variable(T::ROLE, &field.name);
        assert!(variable.starts_with("COCOON_") && !variable.contains('.'), "{variable}");
    }
}

#[test]
fn every_field_and_its_default_is_in_its_role_s_example_and_the_example_parses() {
    example_is_complete::<GatewayFile>();
    example_is_complete::<ProxyFile>();
    example_is_complete::<WorkerFile>();
}

#[test]
fn an_empty_file_is_the_default() {
    let same = |a: &GatewayFile, b: &GatewayFile| {
        assert_eq!(serde_json::to_value(a).unwrap(), serde_json::to_value(b).unwrap());
    };
    let empty: GatewayFile = parse("").unwrap();
    same(&empty, &GatewayFile { dir: empty.dir.clone(), ..GatewayFile::default() });
}

#[test]
fn a_misspelt_field_is_named_with_the_nearest_one() {
    let message = complaint::<GatewayFile>("htpp = \"127.0.0.1:1\"");
    assert!(message.contains("no field `htpp`") && message.contains("did you mean `http`?"), "{message}");
    let message = complaint::<ProxyFile>("[pow]\ndificulty = 3");
    assert!(message.contains("`pow.dificulty`") && message.contains("`pow.difficulty`"), "{message}");
}

#[test]
fn a_field_in_the_wrong_table_is_named_with_its_right_place() {
    let message = complaint::<WorkerFile>("builtin = true");
    assert!(message.contains("`engine.builtin`"), "{message}");
}

#[test]
fn a_field_like_no_other_is_answered_with_the_list() {
    let message = complaint::<WorkerFile>("colour_of_the_sky = 3");
    assert!(message.contains("there are http, dir") && message.contains("engine.url"), "{message}");
}

#[test]
fn a_wrong_value_is_said_with_its_field() {
    for (text, field) in [
        ("http = \"nowhere\"", "http"),
        ("coefficient = -1", "coefficient"),
        ("[root]\naddress = \"EQabc\"", "address"),
        ("[attestation]\npresent = \"sgx\"", "present"),
    ] {
        let message = complaint::<WorkerFile>(text);
        assert!(message.contains(field), "{text}: {message}");
    }
    assert!(complaint::<WorkerFile>("root = 1").contains("[root]"));
    assert!(complaint::<WorkerFile>("= 1").contains("not TOML"));
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"coefficient = 1\nmax_active = 1\nmodel = \"one@a:b\"").unwrap();
    let environment = [
        ("COCOON_WORKER_COEFFICIENT", "2"),
        ("COCOON_WORKER_MODEL", "two@a:b"),
        ("COCOON_WORKER_PROXIES", "a:1, b:2"),
        ("COCOON_WORKER_ENGINE_BUILTIN", "true"),
        ("COCOON_WORKER_SERVICE_HOST", "set by somebody else"),
    ];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let flags = vec![("model", "three@a:b".to_owned())];
    let loaded: WorkerFile = load(Some(file.path()), environment.into_iter(), flags).unwrap();
    assert_eq!((loaded.max_active, loaded.coefficient), (1, 2));
    assert_eq!(loaded.model.as_deref(), Some("three@a:b"));
    assert_eq!(loaded.proxies, ["a:1", "b:2"]);
    assert!(loaded.engine.builtin);
}

#[test]
fn a_wrong_value_in_the_environment_names_its_variable() {
    for (name, value) in
        [("COCOON_WORKER_COEFFICIENT", "much"), ("COCOON_WORKER_PAUSED", "2"), ("COCOON_WORKER_HTTP", "x")]
    {
        let environment = std::iter::once((name.to_owned(), value.to_owned()));
        let loaded: anyhow::Result<WorkerFile> = load(None, environment, Vec::new());
        let message = format!("{:#}", loaded.unwrap_err());
        assert!(message.contains(name), "{message}");
    }
}

#[test]
fn paths_in_a_file_are_relative_to_that_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("worker.toml");
    std::fs::write(&path, "dir = \"state\"\n[root]\nfile = \"/etc/root.json\"").unwrap();
    let loaded: WorkerFile = load(Some(&path), std::iter::empty(), Vec::new()).unwrap();
    assert_eq!(loaded.dir, directory.path().join("state"));
    assert_eq!(loaded.root.file.as_deref(), Some(Path::new("/etc/root.json")));
    let from_flag: WorkerFile = load(None, std::iter::empty(), vec![("dir", "state".to_owned())]).unwrap();
    assert_eq!(from_flag.dir, Path::new("state"));
}

#[test]
fn less_work_is_asked_where_only_this_machine_can_connect() {
    let mut proxy = ProxyFile::default();
    assert_eq!(proxy.listener().accept.difficulty, 4);
    proxy.listen_clients = "0.0.0.0:11002".parse().unwrap();
    assert_eq!(proxy.listener().accept.difficulty, 20);
    proxy.pow.difficulty = Some(7);
    assert_eq!(proxy.listener().accept.difficulty, 7);
}

#[test]
fn coins_are_written_as_people_write_them_and_to_the_nanoton() {
    let payout = |text: &str| parse::<WorkerFile>(&format!("[money]\npayout_at = {text}"));
    for (text, nanoton) in [
        (r#""1.5 TON""#, 1_500_000_000),
        (r#""1.5""#, 1_500_000_000),
        (r#""0.000000001 TON""#, 1),
        (r#""1500000000n""#, 1_500_000_000),
        (r#""0 TON""#, 0),
        (r#""18446744073.709551615 TON""#, u64::MAX),
    ] {
        let policy = WorkerPolicy::from(payout(text).unwrap().money);
        assert_eq!(policy.payout_at_nanoton, nanoton, "{text}");
    }
}

#[test]
fn coins_that_are_none_are_said_with_their_field_and_the_way_to_write_them() {
    for (text, words) in [
        (r#""""#, "an amount is written"),
        (r#""one TON""#, "an amount is written"),
        (r#""-1 TON""#, "an amount is written"),
        (r#""1,5 TON""#, "an amount is written"),
        (r#""1e9""#, "an amount is written"),
        (r#""1.5 USD""#, "'usd' is not known"),
        (r#""0.0000000001 TON""#, "more than nine decimals"),
        (r#""1.5n""#, "no parts"),
        (r#""18446744073.709551616 TON""#, "more coins than there are"),
        // A number could be TON or nanoton, and a fraction would be rounded.
        ("1.5", "string"),
        ("1500000000", "string"),
    ] {
        let message = complaint::<WorkerFile>(&format!("[money]\npayout_at = {text}"));
        assert!(message.contains(words) && message.contains("payout_at"), "{text}: {message}");
    }
}

#[test]
fn coins_in_the_environment_are_read_like_those_in_a_file() {
    let set = |value: &str| {
        let environment = std::iter::once(("COCOON_PROXY_MONEY_WITHDRAW_AT".to_owned(), value.to_owned()));
        load::<ProxyFile>(None, environment, Vec::new())
    };
    assert_eq!(ProxyPolicy::from(set("2.5 TON").unwrap().money).withdraw_at_nanoton, 2_500_000_000);
    let message = format!("{:#}", set("2.5 tonnes").unwrap_err());
    assert!(message.contains("COCOON_PROXY_MONEY_WITHDRAW_AT"), "{message}");
}

#[test]
fn a_gateway_pays_in_the_least_and_once_unless_it_is_told_otherwise() {
    let policy = |text: &str| parse::<GatewayFile>(text).unwrap().money.policy(3_000_000_000);
    let least = policy("");
    assert_eq!((least.deposit_nanoton, least.budget_nanoton), (3_000_000_000, 3_000_000_000));
    let more = policy("[money]\ndeposit = \"5 TON\"\nbudget = \"50 TON\"\ntop_up_below_percent = 101");
    assert_eq!((more.deposit_nanoton, more.budget_nanoton), (5_000_000_000, 50_000_000_000));
    assert_eq!(more.top_up_below_percent, 100);
    let less = policy("[money]\ndeposit = \"1 TON\"");
    assert_eq!((less.deposit_nanoton, less.budget_nanoton), (3_000_000_000, 3_000_000_000));
}

#[test]
fn tls_is_said_to_lack_what_it_lacks() {
    let https = |text: &str| parse::<GatewayFile>(text).unwrap().tls.https();
    assert!(https("").unwrap().is_none());
    let whole = https("[tls]\ncert_file = \"c\"\nkey_file = \"k\"\nhttp = \"0.0.0.0:80\"\nacme_dir = \"w\"");
    assert_eq!(whole.unwrap().unwrap().plain, Some("0.0.0.0:80".parse().unwrap()));
    for (text, lacks) in [
        ("[tls]\ncert_file = \"c\"", "tls.key_file"),
        ("[tls]\nhttp = \"0.0.0.0:80\"", "tls.cert_file"),
        ("[tls]\ncert_file = \"c\"\nkey_file = \"k\"\nacme_dir = \"w\"", "tls.http"),
    ] {
        let message = https(text).unwrap_err().to_string();
        assert!(message.contains(lacks), "{message}");
    }
}

#[test]
fn a_workers_price_is_fixed_unless_its_file_lets_it_follow_the_load() {
    let follow =
        |text: &str| parse::<WorkerFile>(text).unwrap().price.follow().map_err(|error| error.to_string());
    assert_eq!(follow("coefficient = 700"), Ok(None));
    assert_eq!(follow("[price]\nfloor = 600"), Ok(None), "bounds alone move nothing");
    let following = follow("[price]\nfollow_load = true\nfloor = 600\nceiling = 900\npace_percent = 2.5")
        .unwrap()
        .unwrap();
    let bounds = following.bounds;
    assert_eq!((bounds.floor, bounds.ceiling, bounds.pace_permille), (600, 900, 25));
    assert_eq!(following.every, Duration::from_secs(30));
    assert!(follow("[price]\nfollow_load = true\npace_percent = 0.01").unwrap_err().contains("pace_percent"));
}

#[test]
fn a_path_to_an_api_key_is_relative_to_its_file_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, "[chain]\napi_key_file = \"key.txt\"").unwrap();
    let loaded: GatewayFile = load(Some(&path), std::iter::empty(), Vec::new()).unwrap();
    assert_eq!(loaded.chain.api_key_file, Some(directory.path().join("key.txt")));
}
