//! What a simulated Intel publishes about its platforms.

use bytes::Bytes;
use cocoon_attest::tdx::{TcbStatus, collateral};
use cocoon_attest::{Collateral, UnixSeconds};
use serde_json::{Value, json};

use super::SimulatedIntel;
use super::machine::{CPU_SVN, FMSPC, PCE_SVN, QE_PRODUCT, qe_signer};
use crate::simulated::der::json_time;

/// Days between one publication and the next, as with Intel.
const DAYS_TO_NEXT: u64 = 30;

/// The state of a TCB level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Its state.
    pub status: TcbStatus,
    /// When it was last found to lack nothing.
    pub date: UnixSeconds,
    /// What it is open to: `INTEL-SA-00001` and the like.
    pub advisories: Vec<String>,
}

impl Level {
    /// A level in this state, of this date, open to nothing.
    #[must_use]
    pub fn new(status: TcbStatus, date: UnixSeconds) -> Self {
        Self { status, date, advisories: Vec::new() }
    }

    fn json(&self, tcb: Value) -> Value {
        let mut level = json!({
            "tcb": tcb,
            "tcbDate": json_time(self.date),
            "tcbStatus": format!("{:?}", self.status),
        });
        if !self.advisories.is_empty() {
            level["advisoryIDs"] = json!(self.advisories);
        }
        level
    }
}

/// What is published at one time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// When.
    pub issued: UnixSeconds,
    /// When it is published anew; this no longer holds then.
    pub next: UnixSeconds,
    /// Which platform model it is about.
    pub fmspc: [u8; 6],
    /// The number of the evaluation, which rises with each recovery.
    pub evaluation: u32,
    /// The level of every simulated machine. Unless it is up to date, a level above it that is gets published, too.
    pub platform: Level,
    /// The levels of TDX modules of version 1, by their security version.
    pub modules: Vec<(u8, Level)>,
    /// The levels of quoting enclaves, by their security version.
    pub enclaves: Vec<(u16, Level)>,
    /// Serial numbers of revoked platforms.
    pub revoked_platforms: Vec<Vec<u8>>,
    /// Serial numbers of revoked authorities and signers.
    pub revoked_by_root: Vec<Vec<u8>>,
}

impl Published {
    /// The usual: the usual machine is up to date, one older TDX module and quoting enclave are not.
    #[must_use]
    pub fn usual(issued: UnixSeconds) -> Self {
        let current = Level::new(TcbStatus::UpToDate, issued);
        let old = Level::new(TcbStatus::OutOfDate, UnixSeconds(issued.0.saturating_sub(200 * 86_400)));
        Self {
            issued,
            next: issued.plus(DAYS_TO_NEXT * 86_400),
            fmspc: FMSPC,
            evaluation: 20,
            platform: current.clone(),
            modules: vec![(6, current.clone()), (4, old.clone())],
            enclaves: vec![(4, current), (3, old)],
            revoked_platforms: Vec::new(),
            revoked_by_root: Vec::new(),
        }
    }

    /// The TCB information, before signing.
    #[must_use]
    pub fn tcb_info(&self) -> Value {
        let components = |svns: [u8; 16]| svns.map(|svn| json!({ "svn": svn })).to_vec();
        let tcb = |cpu: [u8; 16]| {
            let mut tdx = [0; 16];
            (tdx[0], tdx[2]) = (5, 3);
            json!({
                "sgxtcbcomponents": components(cpu),
                "pcesvn": PCE_SVN,
                "tdxtcbcomponents": components(tdx),
            })
        };
        let mut levels = Vec::new();
        if self.platform.status != TcbStatus::UpToDate {
            let mut above = CPU_SVN;
            above[0] += 1;
            levels.push(Level::new(TcbStatus::UpToDate, self.issued).json(tcb(above)));
        }
        levels.push(self.platform.json(tcb(CPU_SVN)));
        let modules: Vec<Value> =
            self.modules.iter().map(|(svn, level)| level.json(json!({ "isvsvn": svn }))).collect();
        json!({
            "id": "TDX",
            "version": 3,
            "issueDate": json_time(self.issued),
            "nextUpdate": json_time(self.next),
            "fmspc": hex::encode_upper(self.fmspc),
            "pceId": "0000",
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.evaluation,
            "tdxModule": {
                "mrsigner": "0".repeat(96),
                "attributes": "0".repeat(16),
                "attributesMask": "F".repeat(16),
            },
            "tdxModuleIdentities": [{
                "id": "TDX_01",
                "mrsigner": "0".repeat(96),
                "attributes": "0".repeat(16),
                "attributesMask": "F".repeat(16),
                "tcbLevels": modules,
            }],
            "tcbLevels": levels,
        })
    }

    /// The QE identity, before signing.
    #[must_use]
    pub fn qe_identity(&self) -> Value {
        let enclaves: Vec<Value> =
            self.enclaves.iter().map(|(svn, level)| level.json(json!({ "isvsvn": svn }))).collect();
        json!({
            "id": "TD_QE",
            "version": 2,
            "issueDate": json_time(self.issued),
            "nextUpdate": json_time(self.next),
            "tcbEvaluationDataNumber": self.evaluation,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": hex::encode_upper(qe_signer()),
            "isvprodid": QE_PRODUCT,
            "tcbLevels": enclaves,
        })
    }
}

impl SimulatedIntel {
    /// All collateral for a quote of the usual machine, as published at `issued`.
    #[must_use]
    pub fn collateral(&self, issued: UnixSeconds) -> Collateral {
        self.publish(&Published::usual(issued))
    }

    /// All collateral for a quote, as published.
    #[must_use]
    pub fn publish(&self, published: &Published) -> Collateral {
        let (from, to) = (published.issued, published.next);
        let mut all = Collateral::none();
        let root_list = self.root().revoke(&published.revoked_by_root, from, to);
        all.insert(collateral::root_crl(), root_list.into());
        let list = self.authority().revoke(&published.revoked_platforms, from, to);
        all.insert(collateral::pck_crl(collateral::PckAuthority::Platform), list.into());
        all.insert(
            collateral::tcb_info(published.fmspc),
            self.sign_answer("tcbInfo", &published.tcb_info().to_string()),
        );
        all.insert(
            collateral::qe_identity(),
            self.sign_answer("enclaveIdentity", &published.qe_identity().to_string()),
        );
        all
    }

    /// An answer with this content, signed, with the signer's chain.
    #[must_use]
    pub fn sign_answer(&self, member: &str, content: &str) -> Bytes {
        let signature = hex::encode(self.signer().key().sign(content.as_bytes()));
        let body = format!("{{\"{member}\":{content},\"signature\":\"{signature}\"}}");
        let chain = self.signer().pem() + &self.root().pem();
        collateral::signed_answer(&chain, body.as_bytes())
    }
}
