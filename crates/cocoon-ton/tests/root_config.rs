//! The published test-mode form of the root configuration.

#![allow(clippy::unwrap_used)]

use cocoon_ton::root::model_hash;
use cocoon_ton::{Address, ContractCode, ProxyEndpoints, RootConfig, RootConfigError};
use proptest::prelude::*;
use serde_json::{Value, json};

const OWNER: &str = "0QBgPMq7ye2WRcudRHK_-yjHwMXjeN-UCzAuoo06TR6hmgHV";

fn read(file: &Value) -> Result<RootConfig, RootConfigError> {
    RootConfig::from_published_json(&file.to_string())
}

/// The smallest file with one field set.
fn with(field: &str, value: Value) -> Result<RootConfig, RootConfigError> {
    let mut file = json!({ "root_owner_address": OWNER });
    file[field] = value;
    read(&file)
}

#[test]
fn a_file_with_only_an_owner_is_a_test_network_without_members() {
    let config = read(&json!({ "root_owner_address": OWNER })).unwrap();
    assert_eq!(config, RootConfig::test_mode(OWNER.parse::<Address>().unwrap()));
    assert!(config.params.proxy_code.unwrap().is_empty());
}

#[test]
fn a_file_without_an_owner_is_refused() {
    assert!(matches!(read(&json!({})), Err(RootConfigError::Owner(_))));
    assert!(matches!(with("root_owner_address", json!("nobody")), Err(RootConfigError::Owner(_))));
}

#[test]
fn null_means_absent_and_unknown_fields_mean_nothing() {
    let file = json!({
        "root_owner_address": OWNER, "proxy_hashes": null, "version": null, "client_sc_code": null,
        "model_names": ["ignored"], "something_new": {"deep": []},
    });
    assert_eq!(read(&file).unwrap(), read(&json!({ "root_owner_address": OWNER })).unwrap());
}

#[test]
fn numbers_may_be_strings_but_must_fit_31_bits() {
    assert_eq!(with("price_per_token", json!("20")).unwrap().params.price_per_token_nanoton, 20);
    assert_eq!(with("version", json!(2_147_483_647)).unwrap().version, i32::MAX.cast_unsigned());
    for bad in [json!(2_147_483_648_u64), json!(-1), json!("-1"), json!(1.5), json!("many"), json!([])] {
        let error = with("worker_fee_per_token", bad.clone()).unwrap_err();
        assert!(matches!(error, RootConfigError::Json(_)), "{bad}: {error}");
    }
}

#[test]
fn model_types_allow_the_part_before_the_at_sign() {
    let config = with("model_types", json!(["Qwen/Qwen3-8B@main:00ff", "small"])).unwrap();
    assert!(config.allows_model("Qwen/Qwen3-8B"));
    assert!(config.allows_model("small"));
    assert!(!config.allows_model("Qwen/Qwen3-8B@main:00ff"), "as published nodes read it");
}

#[test]
fn hashes_allow_exactly_what_they_name() {
    // SHA-256 of the full name in base64.
    let name = "Qwen/Qwen3-8B@main:00ff";
    let mut config = RootConfig::test_mode(OWNER.parse().unwrap());
    config.model_hashes.insert(model_hash(name));
    config.proxy_hashes.insert([1; 32]);
    config.worker_hashes.insert([2; 32]);
    let config = RootConfig::from_published_json(&config.to_published_json().unwrap()).unwrap();
    assert!(config.allows_model(name) && !config.allows_model("Qwen/Qwen3-8B"));
    assert!(config.allows_proxy_hash(&[1; 32]) && !config.allows_proxy_hash(&[2; 32]));
    assert!(config.allows_worker_hash(&[2; 32]) && !config.allows_worker_hash(&[1; 32]));
}

#[test]
fn bad_entries_are_refused_by_field() {
    let error = with("worker_hashes", json!(["AAAA"])).unwrap_err().to_string();
    assert!(error.contains("worker_hashes") && error.contains("AAAA"), "{error}");
    let error = with("proxy_sc_code", json!("zz")).unwrap_err().to_string();
    assert!(error.contains("proxy_sc_code"), "{error}");
    let error = with("client_sc_code", json!("b5ee9c72")).unwrap_err().to_string();
    assert!(error.contains("client_sc_code"), "{error}");
    let error = with("registered_proxies", json!([{ "seqno": 1, "address": "example.org:80" }])).unwrap_err();
    assert!(error.to_string().contains("example.org:80"), "{error}");
}

#[test]
fn one_endpoint_serves_both_sides_and_two_are_for_workers_then_clients() {
    let one: ProxyEndpoints = "10.1.2.3:11000".parse().unwrap();
    assert_eq!(one.for_workers, one.for_clients);
    assert_eq!(one.to_string(), "10.1.2.3:11000");
    let two: ProxyEndpoints = "[10.1.2.3:11001] 10.1.2.3:11002".parse().unwrap();
    assert_eq!((two.for_workers.port(), two.for_clients.port()), (11001, 11002));
    for bad in ["", " ", "10.1.2.3", "10.1.2.3:0", "10.1.2.3:65536", "10.1.2.3:1 ", "[::1]:80", "a b c"] {
        assert!(bad.parse::<ProxyEndpoints>().is_err(), "{bad:?}");
    }
    assert!("1".repeat(128).parse::<ProxyEndpoints>().unwrap_err().to_string().contains("128"));
}

#[test]
fn what_the_form_cannot_say_is_not_written() {
    let config = RootConfig::test_mode(OWNER.parse().unwrap());
    assert!(config.to_published_json().is_ok());
    for change in [
        |c: &mut RootConfig| c.params.unique_id = 14,
        |c: &mut RootConfig| c.params.cached_tokens_price_multiplier = 1,
        |c: &mut RootConfig| c.params.price_per_token_nanoton = 1 << 31,
        |c: &mut RootConfig| c.params.worker_code = None,
        |c: &mut RootConfig| c.version = u32::MAX,
    ] {
        let mut changed = config.clone();
        change(&mut changed);
        let refused = changed.to_published_json();
        assert!(matches!(refused, Err(RootConfigError::NotRepresentable(_))), "{refused:?}");
    }
}

#[test]
fn a_file_over_the_limit_is_refused() {
    let text = " ".repeat(1024 * 1024 + 1);
    assert!(matches!(RootConfig::from_published_json(&text), Err(RootConfigError::TooLarge(_))));
}

fn any_hashes() -> impl Strategy<Value = std::collections::BTreeSet<[u8; 32]>> {
    prop::collection::btree_set(any::<[u8; 32]>(), 0..4)
}

proptest! {
    #[test]
    fn every_test_network_reads_back(
        owner: [u8; 32], proxies in any_hashes(), workers in any_hashes(), models in any_hashes(),
        endpoints in prop::collection::vec((0u32..1 << 31, any::<[u8; 4]>(), 1u16.., 1u16..), 0..4),
        numbers in prop::array::uniform5(0u32..1 << 31),
    ) {
        let mut config = RootConfig::test_mode(Address::basechain(owner));
        (config.proxy_hashes, config.worker_hashes, config.model_hashes) = (proxies, workers, models);
        config.registered_proxies = endpoints
            .into_iter()
            .map(|(seqno, ip, workers, clients)| cocoon_ton::RegisteredProxy {
                seqno,
                endpoints: ProxyEndpoints {
                    for_workers: std::net::SocketAddrV4::new(ip.into(), workers),
                    for_clients: std::net::SocketAddrV4::new(ip.into(), clients),
                },
            })
            .collect();
        config.version = numbers[0];
        config.last_proxy_seqno = numbers[1];
        config.params.params_version = numbers[2];
        config.params.price_per_token_nanoton = numbers[3].into();
        config.params.worker_fee_per_token_nanoton = numbers[4].into();
        config.params.worker_code =
            Some(ContractCode::from_cell(config.params.cell_without_code()).unwrap());
        let written = config.to_published_json().unwrap();
        prop_assert_eq!(RootConfig::from_published_json(&written).unwrap(), config);
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in any::<String>()) {
        let _ = RootConfig::from_published_json(&text);
    }
}
