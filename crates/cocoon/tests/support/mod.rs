//! Runs the built program and talks HTTP to it, with the standard library alone.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The program, free of what the environment may say to it.
pub fn cocoon(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cocoon"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("COCOON_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs the program to its end.
pub fn run(arguments: &[&str]) -> Output {
    cocoon(arguments).output().unwrap()
}

/// What it said on standard error.
pub fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The text of a path.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A program under way; killed where it is not stopped.
pub struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// Which of the two outputs is listened to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Listen {
    Stdout,
    Stderr,
}

impl Running {
    pub fn start(mut command: Command, listen: Listen) -> Self {
        match listen {
            Listen::Stdout => command.stdout(Stdio::piped()),
            Listen::Stderr => command.stdout(Stdio::null()).stderr(Stdio::piped()),
        };
        let mut child = command.spawn().unwrap();
        let output: Box<dyn std::io::Read + Send> = match listen {
            Listen::Stdout => Box::new(child.stdout.take().unwrap()),
            Listen::Stderr => Box::new(child.stderr.take().unwrap()),
        };
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody may be interested any more; the pipe is emptied all the same.
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }

    /// The next line that is a JSON object with `field`.
    pub fn json_with(&mut self, field: &str) -> Value {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("the program said nothing more");
            if let Ok(value) = serde_json::from_str::<Value>(&line)
                && value.get(field).is_some()
            {
                return value;
            }
        }
    }

    /// The next line that contains `words`.
    pub fn line_with(&mut self, words: &str) -> String {
        let end = Instant::now() + LIMIT;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.lines.recv_timeout(left).expect("the program said nothing more");
            if line.contains(words) {
                return line;
            }
        }
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// Asks for an end as service managers do, and returns the exit code.
    pub fn stop(self) -> Option<i32> {
        self.signal("TERM");
        self.wait()
    }

    /// Waits for the end, and returns the exit code.
    pub fn wait(mut self) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            pause();
        }
        panic!("the program did not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A model server on a free port: `served` is called for each completion and gives its answer as JSON.
pub fn model_server(model: &'static str, served: impl Fn() -> Value + Send + Sync + 'static) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let served = std::sync::Arc::new(served);
    std::thread::spawn(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            let served = std::sync::Arc::clone(&served);
            std::thread::spawn(move || {
                let mut tcp = BufReader::new(tcp);
                let (mut first, mut length) = (String::new(), 0);
                tcp.read_line(&mut first).unwrap();
                loop {
                    let mut line = String::new();
                    tcp.read_line(&mut line).unwrap();
                    let line = line.trim().to_ascii_lowercase();
                    if line.is_empty() {
                        break;
                    }
                    if let Some(bytes) = line.strip_prefix("content-length:") {
                        length = bytes.trim().parse().unwrap();
                    }
                }
                let mut body = vec![0; length];
                tcp.read_exact(&mut body).unwrap();
                // By answers of one token, and at other paths, a worker looks what there is.
                let is_look = !first.contains("/v1/chat/completions")
                    || String::from_utf8_lossy(&body).contains("\"max_tokens\":1,");
                let answer = if first.starts_with("POST") {
                    if is_look { serde_json::json!({}) } else { served() }
                } else {
                    serde_json::json!({"object": "list", "data": [{"id": model, "object": "model"}]})
                };
                let answer = answer.to_string();
                // The caller may have gone away.
                let _ = write!(
                    tcp.get_mut(),
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\
                     Content-Length: {}\r\n\r\n{answer}",
                    answer.len()
                );
            });
        }
    });
    url
}

/// One HTTP exchange: status and body.
pub fn http(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let mut tcp = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    tcp.set_read_timeout(Some(LIMIT)).unwrap();
    let length = body.len();
    write!(
        tcp,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = Vec::new();
    tcp.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (status, if chunked { joined(body) } else { body.to_owned() })
}

/// As JSON.
pub fn get_json(address: &str, path: &str) -> Value {
    let (status, body) = http(address, "GET", path, "");
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap()
}

/// Asks until the answer is as wanted, and returns what was wanted of it.
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LIMIT;
    while Instant::now() < end {
        if let Some(found) = probe() {
            return found;
        }
        pause();
    }
    panic!("{what}: not within {LIMIT:?}");
}

/// Joins the chunks of a body.
fn joined(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        text += &rest[..size];
        body = rest[size..].strip_prefix("\r\n").unwrap_or_default();
    }
    text
}

#[allow(clippy::disallowed_methods)]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
