//! What the nodes of one test log.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::within;

/// One line of the log.
#[derive(Debug, Clone)]
pub struct Event {
    pub level: tracing::Level,
    pub message: String,
    pub fields: BTreeMap<&'static str, String>,
}

impl Event {
    /// A field, or nothing.
    pub fn field(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }
}

/// The log of the current thread, on which a test's whole network runs.
pub struct Log {
    lines: Arc<Mutex<Vec<Event>>>,
    count: watch::Receiver<usize>,
    _guard: DefaultGuard,
}

impl Log {
    /// Begins to listen.
    pub fn capture() -> Self {
        let (sender, count) = watch::channel(0);
        let lines = Arc::new(Mutex::new(Vec::new()));
        let layer = Capture { lines: Arc::clone(&lines), count: sender };
        let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
        Self { lines, count, _guard: guard }
    }

    /// What was logged so far.
    pub fn lines(&self) -> Vec<Event> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line that fits, from the beginning of the log on.
    pub async fn wait(&self, what: &str, fits: impl Fn(&Event) -> bool) -> Event {
        let mut count = self.count.clone();
        let search = async {
            loop {
                count.borrow_and_update();
                if let Some(line) = self.lines().into_iter().find(|line| fits(line)) {
                    return line;
                }
                count.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(crate::PATIENCE, search).await {
            Ok(line) => line,
            Err(_) => panic!("no line in the log with {what}: {:#?}", self.lines()),
        }
    }

    /// Waits for the line that says that the connection of `peer` was closed or refused, with `cause` in its cause.
    pub async fn closed(&self, peer: std::net::SocketAddr, cause: &str) -> Event {
        let peer = peer.to_string();
        let what = format!("peer {peer} and cause {cause:?}");
        self.wait(&what, |line| line.field("peer") == peer && line.field("cause").contains(cause)).await
    }

    /// Fails if anything was logged as an error.
    pub fn assert_no_errors(&self) {
        let errors: Vec<_> =
            self.lines().into_iter().filter(|line| line.level == tracing::Level::ERROR).collect();
        assert!(errors.is_empty(), "errors in the log: {errors:#?}");
    }

    /// Waits for `count` lines that fit.
    pub async fn wait_count(&self, what: &str, wanted: usize, fits: impl Fn(&Event) -> bool) {
        let mut count = self.count.clone();
        within(what, async {
            loop {
                count.borrow_and_update();
                if self.lines().iter().filter(|line| fits(line)).count() >= wanted {
                    return;
                }
                count.changed().await.unwrap();
            }
        })
        .await;
    }
}

struct Capture {
    lines: Arc<Mutex<Vec<Event>>>,
    count: watch::Sender<usize>,
}

impl<S: tracing::Subscriber> Layer<S> for Capture {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.target().starts_with("cocoon") && *metadata.level() <= tracing::Level::DEBUG
    }

    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields(BTreeMap::new());
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        let line = Event { level: *event.metadata().level(), message, fields: fields.0 };
        self.lines.lock().unwrap().push(line);
        self.count.send_modify(|count| *count += 1);
    }
}

struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}
