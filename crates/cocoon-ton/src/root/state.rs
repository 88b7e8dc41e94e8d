//! The root contract's state on chain.
//!
//! ```text
//! root: owner:MsgAddress version:uint32 ^lists ^params
//! lists: proxy_hashes:HashmapE 256, registered_proxies:HashmapE 32, last_proxy_seqno:uint32,
//!        worker_hashes:HashmapE 256, model_hashes:HashmapE 256
//! registered proxy: kind:bit (0) length:uint7 text:bytes
//! ```

use std::collections::BTreeSet;

use tycho_types::cell::CellSlice;
use tycho_types::dict::RawDict;
use tycho_types::prelude::Load as _;

use super::{
    MAX_ENDPOINTS_BYTES, MAX_LIST_ENTRIES, ProxyEndpoints, RegisteredProxy, RootConfig, RootConfigError,
};
use crate::cell::{Cell, CellError, Reader, Writer};
use crate::contracts::RootParams;

impl RootConfig {
    /// Reads the data of the root contract, with params of any version from 0 to 3. As published nodes do, it skips
    /// registered proxies whose endpoints are of another kind or do not parse.
    ///
    /// # Errors
    /// [`RootConfigError::State`], [`RootConfigError::Params`], [`RootConfigError::List`] or
    /// [`RootConfigError::ListTooLong`].
    pub fn from_state(data: &Cell) -> Result<Self, RootConfigError> {
        let mut root = Reader::new(data, "the root contract's data")?;
        let owner = root.address("owner")?;
        let version = root.u32("version")?;
        let lists_cell = root.reference("lists")?;
        let params = RootParams::from_cell(&root.reference("params")?)?;
        root.end("the root contract's data")?;

        let mut lists =
            CellSlice::new(lists_cell.as_ref()).map_err(|_| CellError::Exotic("the root's lists"))?;
        let proxy_hashes = load_hashes(&mut lists, "proxy_hashes")?;
        let registered_proxies = load_proxies(&mut lists)?;
        let last_proxy_seqno = lists.load_u32().map_err(|_| CellError::Missing("last_proxy_seqno"))?;
        let worker_hashes = load_hashes(&mut lists, "worker_hashes")?;
        let model_hashes = load_hashes(&mut lists, "model_hashes")?;
        Reader::from_slice(lists).end("the root's lists")?;

        Ok(Self {
            owner,
            proxy_hashes,
            registered_proxies,
            last_proxy_seqno,
            worker_hashes,
            model_hashes,
            version,
            params,
        })
    }

    /// The data of a root contract with this configuration. Of registered proxies with the same number the last one
    /// counts; they come back in the order of their numbers.
    pub fn to_state_data(&self) -> Cell {
        let mut proxies = RawDict::<32>::new();
        for proxy in &self.registered_proxies {
            let seqno = Writer::new().uint(u64::from(proxy.seqno), 32).build();
            insert(&mut proxies, &seqno, &store_proxy_endpoints(Writer::new(), &proxy.endpoints).build());
        }
        let lists = Writer::new()
            .maybe_reference(hash_list(&self.proxy_hashes).root().as_ref())
            .maybe_reference(proxies.root().as_ref())
            .uint(u64::from(self.last_proxy_seqno), 32)
            .maybe_reference(hash_list(&self.worker_hashes).root().as_ref())
            .maybe_reference(hash_list(&self.model_hashes).root().as_ref())
            .build();
        Writer::new()
            .address(&self.owner)
            .uint(u64::from(self.version), 32)
            .reference(lists)
            .reference(self.params.cell_for_root())
            .build()
    }
}

/// Appends a registered proxy as the root contract keeps it and is told it.
pub(crate) fn store_proxy_endpoints(writer: Writer, endpoints: &ProxyEndpoints) -> Writer {
    let text = endpoints.to_string();
    debug_assert!(text.len() <= MAX_ENDPOINTS_BYTES, "two IPv4 endpoints have at most 43 characters");
    writer.uint(0, 1).uint(text.len() as u64, 7).bytes(text.as_bytes())
}

fn hash_list(hashes: &BTreeSet<[u8; 32]>) -> RawDict<256> {
    let mut dictionary = RawDict::new();
    let nothing = Writer::new().build();
    for hash in hashes {
        insert(&mut dictionary, &Writer::new().bytes(hash).build(), &nothing);
    }
    dictionary
}

fn insert<const BITS: u16>(dictionary: &mut RawDict<BITS>, key: &Cell, value: &Cell) {
    const FITS: &str =
        "key and value are ordinary cells, the key has the dictionary's length, and both fit one cell";
    dictionary.set(key.as_slice().expect(FITS), value.as_slice().expect(FITS)).expect(FITS);
}

fn load_hashes(lists: &mut CellSlice<'_>, list: &'static str) -> Result<BTreeSet<[u8; 32]>, RootConfigError> {
    let dictionary = RawDict::<256>::load_from(lists).map_err(|_| RootConfigError::List(list))?;
    let mut hashes = BTreeSet::new();
    for entry in dictionary.keys() {
        let key = entry.map_err(|_| RootConfigError::List(list))?;
        let hash = Reader::from_slice(key.as_data_slice()).bytes(list)?;
        hashes.insert(hash);
        if hashes.len() > MAX_LIST_ENTRIES {
            return Err(RootConfigError::ListTooLong(list));
        }
    }
    Ok(hashes)
}

fn load_proxies(lists: &mut CellSlice<'_>) -> Result<Vec<RegisteredProxy>, RootConfigError> {
    const LIST: &str = "registered_proxies";
    let dictionary = RawDict::<32>::load_from(lists).map_err(|_| RootConfigError::List(LIST))?;
    let mut proxies = Vec::new();
    for (index, entry) in dictionary.iter().enumerate() {
        if index >= MAX_LIST_ENTRIES {
            return Err(RootConfigError::ListTooLong(LIST));
        }
        let (key, value) = entry.map_err(|_| RootConfigError::List(LIST))?;
        let seqno = Reader::from_slice(key.as_data_slice()).u32(LIST)?;
        if let Some(endpoints) = load_proxy_endpoints(&mut Reader::from_slice(value))? {
            proxies.push(RegisteredProxy { seqno, endpoints });
        }
    }
    Ok(proxies)
}

/// Reads a registered proxy; `None` when its endpoints are of another kind or do not parse.
pub(crate) fn load_proxy_endpoints(value: &mut Reader<'_>) -> Result<Option<ProxyEndpoints>, CellError> {
    const FIELD: &str = "a registered proxy";
    if value.bit(FIELD)? {
        return Ok(None);
    }
    let length = value.uint(7, FIELD)?;
    let text = (0..length).map(|_| value.u8(FIELD)).collect::<Result<Vec<u8>, _>>()?;
    debug_assert!(text.len() <= MAX_ENDPOINTS_BYTES, "7 bits count to 127");
    Ok(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tycho_types::cell::{CellBuilder, CellFamily as _};
    use tycho_types::prelude::Store as _;

    use proptest::prelude::*;

    use super::*;
    use crate::address::Address;
    use crate::cell::Writer;
    use crate::contracts::StructVersion;

    fn dictionary<const N: u16>(entries: &[(Cell, Cell)]) -> RawDict<N> {
        let mut dictionary = RawDict::<N>::new();
        for (key, value) in entries {
            dictionary.set(key.as_slice().unwrap(), value.as_slice().unwrap()).unwrap();
        }
        dictionary
    }

    fn listed(hashes: &[[u8; 32]]) -> RawDict<256> {
        let entries: Vec<_> =
            hashes.iter().map(|hash| (Writer::new().bytes(hash).build(), Writer::new().build())).collect();
        dictionary(&entries)
    }

    fn raw_entry(seqno: u32, kind: u64, text: &str) -> (Cell, Cell) {
        let value = Writer::new().uint(kind, 1).uint(text.len() as u64, 7).bytes(text.as_bytes()).build();
        (Writer::new().uint(seqno.into(), 32).build(), value)
    }

    fn state(params: &RootParams) -> Cell {
        let mut lists = CellBuilder::new();
        let context = Cell::empty_context();
        listed(&[[1; 32], [2; 32]]).store_into(&mut lists, context).unwrap();
        let proxies = [
            raw_entry(4, 0, "10.0.0.1:11001 10.0.0.1:11002"),
            raw_entry(5, 1, "10.0.0.2:11001"),
            raw_entry(6, 0, "not an endpoint"),
            raw_entry(7, 0, "10.0.0.3:11000"),
        ];
        dictionary::<32>(&proxies).store_into(&mut lists, context).unwrap();
        lists.store_u32(7).unwrap();
        listed(&[]).store_into(&mut lists, context).unwrap();
        listed(&[[3; 32]]).store_into(&mut lists, context).unwrap();
        Writer::new()
            .address(&Address::basechain([8; 32]))
            .uint(42, 32)
            .reference(lists.build().unwrap())
            .reference(params.cell_for_root())
            .build()
    }

    fn params(struct_version: StructVersion) -> RootParams {
        let mut params = RootConfig::test_mode(Address::basechain([0; 32])).params;
        params.struct_version = struct_version;
        params.price_per_token_nanoton = 20;
        params
    }

    #[test]
    fn the_state_of_a_root_contract_is_read_in_every_version() {
        for version in [StructVersion::V0, StructVersion::V1, StructVersion::V2, StructVersion::V3] {
            let config = RootConfig::from_state(&state(&params(version))).unwrap();
            assert_eq!(config.owner, Address::basechain([8; 32]));
            assert_eq!((config.version, config.last_proxy_seqno), (42, 7));
            assert_eq!(config.proxy_hashes, BTreeSet::from([[1; 32], [2; 32]]));
            assert!(config.worker_hashes.is_empty());
            assert_eq!(config.model_hashes, BTreeSet::from([[3; 32]]));
            assert_eq!(config.params, params(version), "version {version:?}");
            let seqnos: Vec<_> = config.registered_proxies.iter().map(|proxy| proxy.seqno).collect();
            assert_eq!(seqnos, [4, 7], "proxies of other kinds and without endpoints are skipped");
            let endpoints = config.registered_proxies[0].endpoints;
            assert_eq!(endpoints.to_string(), "10.0.0.1:11001 10.0.0.1:11002");
        }
    }

    #[test]
    fn a_state_with_something_after_its_fields_is_refused() {
        let good = state(&params(StructVersion::V3));
        let mut longer = CellBuilder::new();
        longer.store_slice(good.as_slice().unwrap()).unwrap();
        longer.store_bit_one().unwrap();
        let error = RootConfig::from_state(&longer.build().unwrap()).unwrap_err();
        assert!(matches!(error, RootConfigError::State(CellError::Trailing(_))), "{error}");
    }

    #[test]
    fn a_params_cell_of_a_future_version_is_refused_by_number() {
        let cell = Writer::new().uint(4, 8).build();
        let error = RootParams::from_cell(&cell).unwrap_err();
        assert!(error.to_string().contains("version 4"), "{error}");
    }

    fn any_hashes() -> impl Strategy<Value = BTreeSet<[u8; 32]>> {
        prop::collection::btree_set(any::<[u8; 32]>(), 0..6)
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            owner: [u8; 32], proxies in any_hashes(), workers in any_hashes(), models in any_hashes(),
            endpoints in prop::collection::btree_map(any::<u32>(), any::<([u8; 4], u16, u16)>(), 0..6),
            version: u32, last_proxy_seqno: u32, price: u64, unique_id: u32,
        ) {
            let mut config = RootConfig::test_mode(Address::basechain(owner));
            (config.proxy_hashes, config.worker_hashes, config.model_hashes) = (proxies, workers, models);
            config.registered_proxies = endpoints
                .into_iter()
                .map(|(seqno, (ip, workers, clients))| RegisteredProxy {
                    seqno,
                    endpoints: ProxyEndpoints {
                        for_workers: std::net::SocketAddrV4::new(ip.into(), workers.max(1)),
                        for_clients: std::net::SocketAddrV4::new(ip.into(), clients.max(1)),
                    },
                })
                .collect();
            (config.version, config.last_proxy_seqno) = (version, last_proxy_seqno);
            config.params.struct_version = StructVersion::V3;
            config.params.price_per_token_nanoton = price;
            config.params.unique_id = unique_id;
            config.params.worker_code = Some(crate::code::worker().clone());
            prop_assert_eq!(RootConfig::from_state(&config.to_state_data()).unwrap(), config);
        }
    }

    #[test]
    fn proxies_come_back_in_the_order_of_their_numbers() {
        let mut config = RootConfig::from_state(&state(&params(StructVersion::V3))).unwrap();
        config.registered_proxies.reverse();
        let written = config.to_state_data();
        config.registered_proxies.reverse();
        assert_eq!(RootConfig::from_state(&written).unwrap(), config, "in the order of numbers");
    }
}
