//! A connection that is up: whether bytes on it still pay for attestation.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use anyhow::Context as _;
use cocoon_attest::PeerCertificate;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::handshake::{Loopback, Nodes, Pair, Variant};
use super::measure::{Cost, Series, Stopwatch};
use super::{Ground, Plan};
use crate::tables::{Column, Report, Table};

/// Bytes written and read at a time: four of the longest TLS records.
const CHUNK_BYTES: usize = 64 << 10;
/// Length of a question and of its answer, bytes: a small message.
const QUESTION_BYTES: usize = 256;
/// Looks at a peer's standing in one round.
const LOOKS: u32 = 2000;

const PATH: &[Column] = &[
    Column("MiB/s", "mib_per_second", 0),
    Column("ratio", "throughput_ratio", 3),
    Column("us for question and answer", "round_trip_us", 1),
    Column("ratio", "round_trip_ratio", 3),
    Column("processor ratio, bytes", "throughput_cpu_ratio", 3),
    Column("processor ratio, questions", "round_trip_cpu_ratio", 3),
    Column("ns for a look", "look_ns", 0),
];

/// Connections of one sort, one after the other, and what was found of them.
#[derive(Default)]
struct Contender {
    name: &'static str,
    variant: Variant,
    up: Option<(Pair, Nodes)>,
    bytes: Series,
    questions: Series,
    looks: Series,
}

impl Contender {
    async fn round(&mut self, plan: Plan) -> anyhow::Result<()> {
        let (pair, nodes) = self.up.as_mut().context("there is no connection")?;
        let watch = Stopwatch::of_process();
        send(pair, plan.path_bytes).await?;
        self.bytes.push(watch.each(1));
        let watch = Stopwatch::of_process();
        ask(pair, plan.questions).await?;
        self.questions.push(watch.each(plan.questions));
        self.looks.push(look(pair, nodes)?);
        Ok(())
    }
}

/// Adds the table of connections that are up.
///
/// # Errors
/// A connection did not come up, or broke.
pub(super) async fn measure(plan: Plan, ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let loopback = Loopback::open().await?;
    // The second shows what differs where nothing does.
    let mut contenders = [
        (Variant::PLAIN.name, Variant::PLAIN),
        ("policy `any`, once more", Variant::PLAIN),
        (Variant::MUTUAL.name, Variant::MUTUAL),
    ]
    .map(|(name, variant)| Contender { name, variant, ..Contender::default() });
    for _ in 0..plan.path_connections {
        // No two connections are alike in what memory they get; it takes several to see what they have in common.
        for contender in &mut contenders {
            let nodes = Nodes::new(ground, contender.variant)?;
            contender.up = Some((loopback.connect(&nodes).await?, nodes));
        }
        for round in 0..plan.path_rounds {
            for turn in 0..contenders.len() {
                let contender = &mut contenders[(round + turn) % 3];
                contender.round(plan).await.context(contender.name)?;
            }
        }
    }
    report.add(table(plan, &contenders));
    Ok(())
}

fn table(plan: Plan, contenders: &[Contender]) -> Table {
    let mut table = Table::new("A connection that is up", PATH);
    let Some(plain) = contenders.first() else { return table };
    let mib = plan.path_bytes as f64 / f64::from(1 << 20);
    for Contender { name, bytes, questions, looks, .. } in contenders {
        let numbers = [
            mib / bytes.wall(),
            1.0 / bytes.wall_ratio(&plain.bytes),
            questions.wall() * 1e6,
            questions.wall_ratio(&plain.questions),
            bytes.cpu_ratio(&plain.bytes),
            questions.cpu_ratio(&plain.questions),
            looks.cpu() * 1e9,
        ];
        table.row(*name, numbers.map(Some));
    }
    table
}

/// So many bytes from one end to the other, until the last has arrived.
async fn send(pair: &mut Pair, count: usize) -> anyhow::Result<()> {
    let (from, to) = (&mut pair.dialled.io, &mut pair.accepted.io);
    let writing = async {
        let chunk = vec![0x5a; CHUNK_BYTES];
        for _ in 0..count / CHUNK_BYTES {
            from.write_all(&chunk).await?;
        }
        from.flush().await
    };
    let reading = async {
        let (mut buffer, mut left) = (vec![0; CHUNK_BYTES], count / CHUNK_BYTES * CHUNK_BYTES);
        while left > 0 {
            match to.read(&mut buffer).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    };
    tokio::try_join!(writing, reading)?;
    Ok(())
}

/// Small messages there and back, one after the other.
async fn ask(pair: &mut Pair, questions: u32) -> anyhow::Result<()> {
    let (near, far) = (&mut pair.dialled.io, &mut pair.accepted.io);
    let asking = async {
        let mut message = [0x5a; QUESTION_BYTES];
        for _ in 0..questions {
            near.write_all(&message).await?;
            near.flush().await?;
            near.read_exact(&mut message).await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let answering = async {
        let mut message = [0; QUESTION_BYTES];
        for _ in 0..questions {
            far.read_exact(&mut message).await?;
            far.write_all(&message).await?;
            far.flush().await?;
        }
        Ok(())
    };
    tokio::try_join!(asking, answering)?;
    Ok(())
}

/// What a stream does before each read and write: one look whether its peer is still let in. Both variants look; this
/// is what the looking itself takes.
fn look(pair: &Pair, nodes: &Nodes) -> anyhow::Result<Cost> {
    let certificate = PeerCertificate::parse(&pair.dialled.peer.certificate)?;
    let mut standing =
        pin!(nodes.dialling.judge().clone().until_refused(certificate, cocoon_net::Pause::default()));
    let mut context = Context::from_waker(Waker::noop());
    let mut lost = standing.as_mut().poll(&mut context).is_ready();
    let watch = Stopwatch::of_thread();
    for _ in 0..LOOKS {
        lost |= standing.as_mut().poll(&mut context).is_ready();
    }
    let cost = watch.each(LOOKS);
    anyhow::ensure!(!lost, "the peer is no longer let in");
    Ok(cost)
}
