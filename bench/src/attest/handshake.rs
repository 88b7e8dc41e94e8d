//! Connecting over loopback: what attestation adds to TCP, proof of work and TLS, in time and in memory.

use std::sync::Arc;

use anyhow::Context as _;
use cocoon_attest::{Evidence, EvidenceKind, EvidenceSource, Policy, ReportData, Verdict, Verifier as _};
use cocoon_collateral::FixedCollateral;
use cocoon_net::{
    AcceptOptions, DialOptions, NodeIdentity, NodeKey, SecureStream, SystemClock, TlsSettings, accept, dial,
};
use cocoon_tee::NoEvidence;
use tokio::net::TcpListener;

use super::measure::{Series, Stopwatch};
use super::{Ground, IMAGE, Plan};
use crate::network::rss_kib;
use crate::tables::{Column, Report, Table};

const HANDSHAKES: &[Column] = &[
    Column("ms", "wall_ms", 2),
    Column("ratio", "wall_ratio", 2),
    Column("processor ms, both ends", "cpu_ms", 2),
    Column("ratio", "cpu_ratio", 2),
];
const MEMORY: &[Column] =
    &[Column("KiB for each end", "kib", 1), Column("bytes of certificate", "certificate_bytes", 0)];

/// Who shows evidence, and whether the peers have met before.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    /// Of which kind; `None` where nobody shows or demands any.
    kind: Option<EvidenceKind>,
    /// Both ends show and demand it; otherwise the dialling one demands, and the accepting one shows.
    both: bool,
    /// The verdict is still known from an earlier handshake; otherwise both nodes are new each time.
    known: bool,
}

impl Variant {
    /// Proof of work and TLS alone.
    pub(super) const PLAIN: Self = Self { name: "policy `any`", kind: None, both: false, known: true };
    /// The most that a connection can rest on.
    pub(super) const MUTUAL: Self =
        Self { name: "TDX, both ends", kind: Some(EvidenceKind::Tdx), both: true, known: false };
}

/// The first is what the others are compared with.
const VARIANTS: [Variant; 8] = {
    let (tdx, snp) = (Some(EvidenceKind::Tdx), Some(EvidenceKind::SevSnp));
    [
        Variant::PLAIN,
        Variant { name: "policy `any`, new peer", known: false, ..Variant::PLAIN },
        Variant { name: "TDX, new peer", kind: tdx, both: false, known: false },
        Variant { name: "TDX, known peer", kind: tdx, both: false, known: true },
        Variant { name: "SEV-SNP, new peer", kind: snp, both: false, known: false },
        Variant { name: "SEV-SNP, known peer", kind: snp, both: false, known: true },
        Variant { name: "TDX, both ends, new to each other", ..Variant::MUTUAL },
        Variant { name: "TDX, both ends, known to each other", known: true, ..Variant::MUTUAL },
    ]
};

/// The two nodes of a connection.
pub(super) struct Nodes {
    pub(super) dialling: TlsSettings,
    accepting: TlsSettings,
}

impl Nodes {
    /// Two new nodes: new keys, new certificates, and nothing known about anybody.
    ///
    /// # Errors
    /// Evidence or a certificate cannot be made.
    pub(super) fn new(ground: &Ground, variant: Variant) -> anyhow::Result<Self> {
        let kind = variant.kind;
        let (shown, demanded) = if variant.both { (kind, kind) } else { (None, None) };
        Ok(Self { dialling: node(ground, shown, kind)?, accepting: node(ground, kind, demanded)? })
    }
}

/// A node that shows evidence of one kind and demands it of another.
fn node(
    ground: &Ground,
    shown: Option<EvidenceKind>,
    demanded: Option<EvidenceKind>,
) -> anyhow::Result<TlsSettings> {
    let source = match shown {
        Some(kind) => simulated(ground, kind)?,
        None => Arc::new(NoEvidence),
    };
    let identity = NodeIdentity::new(NodeKey::generate(), source, ground.now)?;
    let (policy, collateral) = match demanded {
        Some(kind) => (Policy::one_of([kind]), Some(Arc::new(collateral(ground, kind)?) as _)),
        None => (Policy::any(), None),
    };
    let verifiers = Arc::clone(&ground.verifiers) as _;
    Ok(TlsSettings::new(identity, verifiers, policy, collateral, Arc::new(SystemClock))?)
}

fn simulated(ground: &Ground, kind: EvidenceKind) -> anyhow::Result<Arc<dyn EvidenceSource>> {
    ground.vendors.source(kind, 0, IMAGE).context("nobody simulates this kind")
}

/// As from a cache that has everything: the vendors' signing, which is simulated, is done beforehand.
fn collateral(ground: &Ground, kind: EvidenceKind) -> anyhow::Result<FixedCollateral> {
    let evidence: Evidence = simulated(ground, kind)?.evidence(&ReportData([0; ReportData::LEN]))?;
    let needed = ground.verifiers.collateral_needed(&evidence);
    Ok(FixedCollateral::new(ground.vendors.collateral(&needed, ground.now)))
}

/// A listening socket, and how to connect to it: with the least proof of work there is.
pub(super) struct Loopback {
    listener: TcpListener,
    address: String,
    dialling: DialOptions,
    accepting: AcceptOptions,
}

/// Both ends of a connection.
pub(super) struct Pair {
    pub(super) dialled: SecureStream,
    pub(super) accepted: SecureStream,
}

impl Loopback {
    /// # Errors
    /// What the system says.
    pub(super) async fn open() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("can't listen on 127.0.0.1")?;
        let address = listener.local_addr()?.to_string();
        let accepting = AcceptOptions { difficulty: 0, ..AcceptOptions::default() };
        Ok(Self { listener, address, dialling: DialOptions::default(), accepting })
    }

    /// Connects these nodes; both have let each other in.
    ///
    /// # Errors
    /// They did not.
    pub(super) async fn connect(&self, nodes: &Nodes) -> anyhow::Result<Pair> {
        let accepting = async {
            let (tcp, _) = self.listener.accept().await?;
            Ok::<_, anyhow::Error>(accept(tcp, &nodes.accepting, &self.accepting).await?)
        };
        let dialling = async { Ok(dial(&self.address, &nodes.dialling, &self.dialling).await?) };
        let (dialled, accepted) = tokio::try_join!(dialling, accepting)?;
        Ok(Pair { dialled, accepted })
    }
}

/// Two nodes that connect again and again.
struct Contender {
    variant: Variant,
    /// They, and the verdict on the accepting one, where the two are to know each other.
    known: Option<(Nodes, Arc<Verdict>)>,
    costs: Series,
}

impl Contender {
    async fn new(ground: &Ground, loopback: &Loopback, variant: Variant) -> anyhow::Result<Self> {
        let nodes = Nodes::new(ground, variant)?;
        let verdict = loopback.connect(&nodes).await.context(variant.name)?.dialled.peer.verdict;
        let known = variant.known.then_some((nodes, verdict));
        Ok(Self { variant, known, costs: Series::default() })
    }

    /// One handshake, until both ends are up.
    async fn connect(&mut self, ground: &Ground, loopback: &Loopback) -> anyhow::Result<()> {
        let fresh = match &self.known {
            Some(_) => None,
            None => Some(Nodes::new(ground, self.variant)?),
        };
        let known = self.known.as_ref();
        let nodes = fresh.as_ref().or(known.map(|(nodes, _)| nodes)).context("there are always nodes")?;
        let watch = Stopwatch::of_process();
        let pair = loopback.connect(nodes).await.context(self.variant.name)?;
        self.costs.push(watch.each(1));
        // A figure for something else than what its name says would be worse than none.
        let peer = &pair.dialled.peer;
        anyhow::ensure!(peer.attested_kind() == self.variant.kind, "{}: not attested", self.variant.name);
        if let (Some((_, verdict)), Some(_)) = (known, self.variant.kind) {
            let name = self.variant.name;
            anyhow::ensure!(Arc::ptr_eq(verdict, &peer.verdict), "{name}: the evidence was verified again");
        }
        Ok(())
    }
}

/// Adds the table of handshakes.
///
/// # Errors
/// A handshake failed, or was not what it was to be.
pub(super) async fn measure(plan: Plan, ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let loopback = Loopback::open().await?;
    let mut contenders = Vec::new();
    for variant in VARIANTS {
        contenders.push(Contender::new(ground, &loopback, variant).await?);
    }
    for _ in 0..plan.handshakes {
        for contender in &mut contenders {
            contender.connect(ground, &loopback).await?;
        }
    }
    let mut table = Table::new("Handshakes", HANDSHAKES);
    let plain = contenders[0].costs.clone();
    for Contender { variant, costs, .. } in &contenders {
        let numbers =
            [costs.wall() * 1e3, costs.wall_ratio(&plain), costs.cpu() * 1e3, costs.cpu_ratio(&plain)];
        table.row(variant.name, numbers.map(Some));
    }
    report.add(table);
    Ok(())
}

/// The table of memory: connections that stay up, all between the same two nodes, which know each other by then.
///
/// # Errors
/// A handshake failed, or the memory cannot be read.
pub(super) async fn memory(plan: Plan, ground: &Ground) -> anyhow::Result<Table> {
    let loopback = Loopback::open().await?;
    let mut table = Table::new("Memory of a connection", MEMORY);
    let mut held = Vec::new();
    for variant in [Variant::PLAIN, Variant::MUTUAL] {
        let nodes = Nodes::new(ground, variant)?;
        // What is made once, at first use, belongs to no connection.
        let first = loopback.connect(&nodes).await?;
        let certificate_bytes = first.dialled.peer.certificate.len();
        let before = rss_kib(std::process::id())?;
        for _ in 0..plan.held {
            held.push(loopback.connect(&nodes).await?);
        }
        let grown = rss_kib(std::process::id())? as f64 - before as f64;
        let each = grown / f64::from(plan.held) / 2.0;
        table.row(variant.name, [Some(each), Some(certificate_bytes as f64)]);
    }
    Ok(table)
}
