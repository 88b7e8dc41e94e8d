//! Ports of this machine, and what a node connects to. Nobody else is contacted unless that was asked for, and then a
//! connection is made and closed, nothing more.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

use super::check::{Check, Group};
use crate::http_client;

const GROUP: Group = Group::Network;

/// Longest wait for a connection, the name's resolution included.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long whoever listens on a port of ours is given to say who it is.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// Most peers that are tried; the rest is only counted.
const MAX_TARGETS: usize = 32;

/// Whether each address that the node listens on is free. `configured`: they were chosen, not guessed.
pub(super) async fn ports(listens: &[(&'static str, SocketAddr)], configured: bool) -> Vec<Check> {
    // The first one speaks HTTP; where a node answers there, the other ports are its own.
    let running = match listens.first() {
        Some((_, address)) => is_node(*address).await,
        None => false,
    };
    let mut checks = Vec::with_capacity(listens.len());
    for (purpose, address) in listens {
        checks.push(port(purpose, *address, configured, running).await);
    }
    checks
}

async fn port(purpose: &str, address: SocketAddr, configured: bool, running: bool) -> Check {
    if address.port() == 0 {
        return Check::ok(GROUP, "port", format!("any free one of {}, {purpose}", address.ip()));
    }
    let name = format!("port {}", address.port());
    let what = format!("{address}, {purpose}");
    let error = match TcpListener::bind(address).await {
        Ok(_) => return Check::ok(GROUP, &name, format!("{what}: free")),
        Err(error) => error,
    };
    match error.kind() {
        io::ErrorKind::AddrInUse if running => {
            Check::ok(GROUP, &name, format!("{what}: in use, by a Cocoon node"))
        }
        io::ErrorKind::AddrInUse => {
            let (port, found) = (address.port(), format!("{what}: in use, by another program"));
            let mend =
                format!("`ss -ltnp sport = :{port}` as root says by whom; end it, or configure another port");
            if configured {
                Check::problem(GROUP, &name, found, mend)
            } else {
                Check::warning(GROUP, &name, found, mend)
            }
        }
        io::ErrorKind::AddrNotAvailable => Check::problem(
            GROUP,
            &name,
            format!("{what}: no address of this machine"),
            "configure one that `ip address` lists, or 0.0.0.0 for all",
        ),
        _ => Check::problem(
            GROUP,
            &name,
            format!("{what}: {error}"),
            "configure another port: those below 1024 are for root",
        ),
    }
}

/// Whether an HTTP server there answers as our roles do.
async fn is_node(address: SocketAddr) -> bool {
    let asked = async {
        let answer = http_client::get(address, "/jsonstats").await.ok()?;
        let is_success = answer.status.is_success();
        Some(is_success && answer.json().await.ok()?.is_object())
    };
    tokio::time::timeout(ANSWER_LIMIT, asked).await.ok().flatten() == Some(true)
}

/// Somebody whom a node connects to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// For what.
    pub(super) purpose: &'static str,
    /// Its name or IP address.
    host: String,
    port: u16,
    /// Whether the node is of no use without it.
    needed: bool,
}

impl Target {
    /// From a URL. User names in it are left out.
    pub(super) fn url(purpose: &'static str, url: &str, needed: bool) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).to_owned();
        let standard = match uri.scheme_str()? {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let port = uri.port_u16().unwrap_or(standard);
        Some(Self { purpose, host, port, needed })
    }

    /// From `HOST:PORT`.
    pub(super) fn host_and_port(purpose: &'static str, text: &str, needed: bool) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = host.trim_matches(['[', ']']);
        (!host.is_empty()).then_some(Self {
            purpose,
            host: host.to_owned(),
            port: port.parse().ok()?,
            needed,
        })
    }
}

/// Whether a URL is of this machine.
pub(crate) fn is_local(url: &str) -> bool {
    Target::url("", url, false).is_some_and(|target| {
        target.host == "localhost"
            || target.host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
    })
}

/// Connects to everybody at the same time; nothing is sent.
pub(super) async fn reach(targets: Vec<Target>) -> Vec<Check> {
    let left_out = targets.len().saturating_sub(MAX_TARGETS);
    let tries: Vec<_> = targets
        .into_iter()
        .take(MAX_TARGETS)
        .map(|target| {
            let connected = connect(target.host.clone(), target.port);
            (target, tokio_util::task::AbortOnDropHandle::new(tokio::spawn(connected)))
        })
        .collect();
    let mut checks = Vec::with_capacity(tries.len());
    for (target, connected) in tries {
        let outcome = connected.await.unwrap_or_else(|_| Err("the attempt failed".to_owned()));
        checks.push(told(&target, outcome));
    }
    if left_out > 0 {
        checks.push(Check::not_applicable(GROUP, "others", format!("{left_out} more were not tried")));
    }
    checks
}

async fn connect(host: String, port: u16) -> Result<SocketAddr, String> {
    let connected = tokio::time::timeout(CONNECT_LIMIT, async {
        let addresses = tokio::net::lookup_host((host.as_str(), port)).await;
        let addresses: Vec<_> =
            addresses.map_err(|error| format!("the name is not known: {error}"))?.collect();
        let stream = TcpStream::connect(addresses.as_slice()).await.map_err(|error| error.to_string())?;
        stream.peer_addr().map_err(|error| error.to_string())
    });
    let seconds = CONNECT_LIMIT.as_secs();
    connected.await.unwrap_or_else(|_| Err(format!("no connection within {seconds} s")))
}

fn told(target: &Target, outcome: Result<SocketAddr, String>) -> Check {
    let Target { purpose, host, port, needed } = target;
    match outcome {
        Ok(address) => Check::ok(GROUP, purpose, format!("{host}:{port} is reached at {address}")),
        Err(error) => {
            let found = format!("{host}:{port}: {error}");
            let mend = format!(
                "see to it that a firewall lets TCP out to {host}:{port}, that /etc/resolv.conf names a server, and \
                 that the other side runs"
            );
            if *needed {
                Check::problem(GROUP, purpose, found, mend)
            } else {
                Check::warning(GROUP, purpose, found, mend)
            }
        }
    }
}

/// Said where nobody was contacted.
pub(super) fn not_asked() -> Check {
    Check::not_applicable(GROUP, "peers and services", "not contacted; --online tries them")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::check::Outcome;
    use super::*;

    #[test]
    fn addresses_are_read_from_urls_and_from_pairs() {
        let url = |text| Target::url("x", text, true).map(|target| (target.host, target.port));
        assert_eq!(url("http://user:secret@a.example/v2"), Some(("a.example".to_owned(), 80)));
        assert_eq!(url("https://a.example"), Some(("a.example".to_owned(), 443)));
        assert_eq!(url("http://[::1]:8081"), Some(("::1".to_owned(), 8081)));
        for odd in ["nowhere at all", "nowhere", "ftp://a.example", ""] {
            assert_eq!(url(odd), None, "{odd:?}");
        }
        let pair = |text| Target::host_and_port("x", text, true).map(|target| (target.host, target.port));
        assert_eq!(pair("[::1]:11001"), Some(("::1".to_owned(), 11_001)));
        assert_eq!(pair("proxy:11001"), Some(("proxy".to_owned(), 11_001)));
        for odd in ["", ":1", "proxy", "proxy:", "proxy:70000"] {
            assert_eq!(pair(odd), None, "{odd:?}");
        }
        assert!(
            is_local("http://127.0.0.1:1") && is_local("http://localhost") && !is_local("http://10.0.0.1")
        );
    }

    #[tokio::test]
    async fn a_port_is_free_or_in_use() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let taken = listener.local_addr().unwrap();
        for (configured, outcome) in [(true, Outcome::Problem), (false, Outcome::Warning)] {
            assert_eq!(port("HTTP", taken, configured, false).await.outcome, outcome);
        }
        assert_eq!(port("HTTP", taken, true, true).await.outcome, Outcome::Ok);
        let strange = port("HTTP", "203.0.113.7:1234".parse().unwrap(), true, false).await;
        assert_eq!(strange.outcome, Outcome::Problem);
        drop(listener);
        assert_eq!(port("HTTP", taken, true, false).await.outcome, Outcome::Ok);
    }

    #[tokio::test]
    async fn peers_are_reached_or_said_not_to_be() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let there = listener.local_addr().unwrap().to_string();
        let closed = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let gone = closed.local_addr().unwrap().to_string();
        drop(closed);
        let target = |text: &str, needed| Target::host_and_port("proxy", text, needed).unwrap();
        let checks = reach(vec![target(&there, true), target(&gone, true), target(&gone, false)]).await;
        let outcomes: Vec<Outcome> = checks.iter().map(|check| check.outcome).collect();
        assert_eq!(outcomes, [Outcome::Ok, Outcome::Problem, Outcome::Warning]);
        assert!(
            checks.iter().skip(1).all(|check| check.mend.as_ref().is_some_and(|mend| mend.contains(&gone)))
        );
    }
}
