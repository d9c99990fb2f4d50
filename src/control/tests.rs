//! The control socket over a real socket: its envelope, and clients that misbehave, against a service of canned answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SndBuf;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Client, ClientError};
use super::protocol::{ErrorKind, NoParams, RequestError, read_params};
use super::server::{Limits, MAX_CLIENTS, MAX_LINE_BYTES, Server};
use super::{Answer, Prepared, Service, Stream};

/// A service with canned answers, which notes what it was told.
#[derive(Default)]
struct Canned {
    told: Mutex<Vec<String>>,
    /// One reference for each stream that is under way.
    streams: Arc<()>,
    heavy: Arc<Heavy>,
}

/// What is held by requests that are carried out.
#[derive(Default)]
struct Heavy {
    held: AtomicUsize,
    most: AtomicUsize,
    /// Nobody waits any longer.
    is_over: AtomicBool,
}

/// A request that is ready.
struct Ready<F> {
    weight: usize,
    run: F,
}

impl<F: FnOnce() -> Result<Answer, RequestError>> Prepared for Ready<F> {
    fn weight(&self) -> usize {
        self.weight
    }

    fn carry_out(self: Box<Self>) -> Result<Answer, RequestError> {
        (self.run)()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Serialize, Deserialize)]
struct Weighing {
    bytes: usize,
    /// Hold them until it is over.
    waits: bool,
}

/// A stream of 1, 2, 3 and so on.
struct Counting(u64, #[expect(dead_code, reason = "held to be counted")] Arc<()>);

impl Stream for Counting {
    fn next(&mut self, wait: Duration) -> Option<String> {
        thread::sleep(wait.min(Duration::from_millis(1)));
        self.0 += 1;
        Some(self.0.to_string())
    }
}

fn ready(weight: usize, run: impl FnOnce() -> Result<Answer, RequestError> + 'static) -> Box<dyn Prepared> {
    Box::new(Ready { weight, run })
}

fn reply(reply: impl Serialize + Send + 'static) -> Result<Answer, RequestError> {
    Ok(Answer::Reply(Box::new(reply)))
}

impl Canned {
    fn prepared(&self, method: &str, params: Option<&RawValue>) -> Result<Box<dyn Prepared>, RequestError> {
        Ok(match method {
            "list" => {
                let NoParams {} = read_params(params)?;
                ready(0, || reply(["vm0"]))
            }
            "note" => {
                let Named { name } = read_params(params)?;
                self.told.lock().push(name.clone());
                ready(0, move || reply(name.len()))
            }
            "show" => {
                let Named { name } = read_params(params)?;
                ready(0, move || match name.as_str() {
                    "vm0" => reply(json!({"name": name})),
                    _ => Err(RequestError::new(ErrorKind::NotFound, format!("no port {name:?}"))),
                })
            }
            // Large enough that a client which does not read blocks the server's write.
            "long" => ready(0, || reply(vec!["x".repeat(100); 20_000])),
            "count" => {
                let streams = Arc::clone(&self.streams);
                ready(0, move || Ok(Answer::Stream(Box::new(Counting(0, streams)))))
            }
            "heavy" => {
                let Weighing { bytes, waits } = read_params(params)?;
                let heavy = Arc::clone(&self.heavy);
                ready(bytes, move || {
                    let held = heavy.held.fetch_add(bytes, Ordering::SeqCst) + bytes;
                    heavy.most.fetch_max(held, Ordering::SeqCst);
                    while waits && !heavy.is_over.load(Ordering::SeqCst) {
                        thread::sleep(Duration::from_millis(1));
                    }
                    heavy.held.fetch_sub(bytes, Ordering::SeqCst);
                    reply("done")
                })
            }
            _ => unreachable!("not one of ours"),
        })
    }
}

impl Service for Canned {
    fn methods(&self) -> Vec<&'static str> {
        vec!["list", "note", "show", "long", "count", "heavy"]
    }

    fn prepare(
        &self,
        method: &str,
        params: Option<&RawValue>,
    ) -> Option<Result<Box<dyn Prepared>, RequestError>> {
        self.methods().contains(&method).then(|| self.prepared(method, params))
    }
}

/// Limits that are reached with little memory and soon.
const SMALL: Limits = Limits {
    line_bytes: 256 * 1024,
    places: 2,
    work_bytes: 8 * 1024 * 1024,
    patience: Duration::from_secs(5),
    turn: Duration::from_secs(20),
};

/// A server in a folder of its own.
struct Rig {
    server: Server,
    service: Arc<Canned>,
    path: PathBuf,
    _folder: TempDir,
}

impl Rig {
    fn start() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let service = Arc::new(Canned::default());
        let server =
            Server::start(Server::reserve(&path).unwrap(), Arc::clone(&service) as Arc<dyn Service>, limits)
                .unwrap();
        Self { server, service, path, _folder: folder }
    }

    fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    /// A connection that is not bound to the protocol.
    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    /// The server's reply to one raw line.
    fn reply_to(&self, line: &str) -> Value {
        let mut stream = self.raw();
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        read_reply(&stream)
    }

    fn assert_answers(&self) {
        let list = self.client().call("list", &NoParams {}).unwrap();
        assert_eq!(list.get(), r#"["vm0"]"#);
    }
}

fn read_reply(stream: &UnixStream) -> Value {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap()
}

fn assert_closed(mut stream: &UnixStream) {
    // Bytes that the server never read turn the end of the stream into a reset.
    let end = loop {
        match stream.read(&mut [0; 16]) {
            // Another test of this process raises signals.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => (),
            end => break end,
        }
    };
    match end {
        Ok(0) => (),
        // Other tests of this process send it signals.
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => assert_closed(stream),
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => (),
        other => panic!("still open: {other:?}"),
    }
}

fn named(name: &str) -> Named {
    Named { name: name.to_owned() }
}

#[test]
fn result_and_refusal_reach_the_client() {
    let rig = Rig::start();
    let mut client = rig.client();
    assert_eq!(client.call("show", &named("vm0")).unwrap().get(), r#"{"name":"vm0"}"#);
    let mut refusal = |method, name: &str| match client.call(method, &named(name)).unwrap_err() {
        ClientError::Refused(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(refusal("show", "vm9"), RequestError::new(ErrorKind::NotFound, "no port \"vm9\""));
    let unknown = refusal("shwo", "vm0");
    assert_eq!(unknown.kind, ErrorKind::UnknownMethod);
    assert_eq!(unknown.message, "unknown method \"shwo\"; did you mean \"show\"?");
    let far = refusal("reboot", "vm0").message;
    assert!(far.ends_with("use one of hello, list, note, show, long, count, heavy"), "{far}");
    assert_eq!(client.call("show", &named("vm0")).unwrap().get(), r#"{"name":"vm0"}"#);
}

#[test]
fn stream_goes_on_until_the_client_leaves_or_asks_for_something_else() {
    let rig = Rig::start();
    let mut client = rig.client();
    let mut items = client.watch("count", &NoParams {}).unwrap();
    let wait = Duration::from_secs(10);
    for number in 1..50 {
        assert_eq!(items.next(wait).unwrap().unwrap().get(), number.to_string());
    }
    rig.assert_answers();
    assert_eq!(Arc::strong_count(&rig.service.streams), 2);
    drop(client);
    let begun = Instant::now();
    while Arc::strong_count(&rig.service.streams) > 1 {
        assert!(begun.elapsed() < wait, "the stream outlives its client");
        thread::sleep(Duration::from_millis(5));
    }

    let mut stream = rig.raw();
    let count = r#"{"jsonrpc":"2.0","id":1,"method":"count"}"#;
    let hello = r#"{"jsonrpc":"2.0","id":2,"method":"hello"}"#;
    stream.write_all(format!("{count}\n").as_bytes()).unwrap();
    let mut lines = BufReader::new(&stream);
    let mut next = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        serde_json::from_str::<Value>(&line).unwrap()
    };
    assert_eq!(next()["result"], Value::Null);
    assert_eq!(next(), json!({"jsonrpc": "2.0", "method": "count", "params": 1}));
    (&stream).write_all(format!("{hello}\n").as_bytes()).unwrap();
    let answer = std::iter::repeat_with(next).find(|line| line.get("method").is_none()).unwrap();
    assert_eq!(answer["result"]["protocol"], 1);
}

#[test]
fn stream_and_result_are_not_taken_for_each_other() {
    let rig = Rig::start();
    let mut client = rig.client();
    let error = client.watch("list", &NoParams {}).unwrap_err().to_string();
    assert!(error.contains("list is answered by a result, not by a stream"), "{error}");
    // Asked like an ordinary method, a stream gives nothing that reads as a result.
    let nothing = client.call("count", &NoParams {}).unwrap();
    assert!(client.read::<Named>(&nothing).is_err());
}

#[test]
fn long_lines_wait_for_a_place_and_short_ones_get_through() {
    let rig = Rig::with(Limits { patience: SLOW, ..SMALL });
    let slow = half_lines(&rig);
    let name = "x".repeat(200 * 1024);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| rig.client().call("note", &named(&name)).unwrap().get().to_owned());
        for _ in 0..10 {
            rig.assert_answers();
        }
        assert!(!waiting.is_finished());
        drop(slow);
        assert_eq!(waiting.join().unwrap(), name.len().to_string());
    });
}

/// More patience than a test takes.
const SLOW: Duration = Duration::from_secs(120);

/// Clients that have every place for a long line, and do not finish it.
fn half_lines(rig: &Rig) -> Vec<UnixStream> {
    let half_line = |_| {
        let mut stream = rig.raw();
        // What the kernel does not hold, the server has read; and this much it reads only from its place.
        setsockopt(&stream, SndBuf, &4096).unwrap();
        stream.write_all(&vec![b' '; 128 * 1024]).unwrap();
        stream
    };
    (0..SMALL.places).map(half_line).collect()
}

#[test]
fn long_line_whose_turn_does_not_come_is_refused_and_learns_why_when_it_has_sent_everything() {
    let rig = Rig::with(Limits { turn: Duration::from_millis(100), patience: SLOW, ..SMALL });
    let _slow = half_lines(&rig);
    let refused = match rig.client().call("note", &named(&"x".repeat(250 * 1024))).unwrap_err() {
        ClientError::Refused(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(refused.kind, ErrorKind::Busy);
    assert!(refused.message.ends_with("try again"), "{refused}");
    rig.assert_answers();
}

#[test]
fn memory_of_requests_is_bounded_in_sum_and_light_ones_do_not_wait() {
    let rig = Rig::with(SMALL);
    let mib = 1024 * 1024;
    let (held, is_over) = (&rig.service.heavy.held, &rig.service.heavy.is_over);
    thread::scope(|scope| {
        let heavy: Vec<_> = (0..12)
            .map(|_| {
                let mut client = rig.client();
                let weighing = Weighing { bytes: 5 * mib, waits: true };
                scope.spawn(move || client.call("heavy", &weighing).unwrap())
            })
            .collect();
        let begun = Instant::now();
        while held.load(Ordering::SeqCst) == 0 && begun.elapsed() < SMALL.turn {
            thread::sleep(Duration::from_millis(1));
        }
        for _ in 0..10 {
            rig.client().call("heavy", &Weighing { bytes: mib / 2, waits: false }).unwrap();
        }
        is_over.store(true, Ordering::SeqCst);
        heavy.into_iter().for_each(|heavy| assert_eq!(heavy.join().unwrap().get(), r#""done""#));
    });
    let most = rig.service.heavy.most.load(Ordering::SeqCst);
    assert!((5 * mib..=8 * mib).contains(&most), "{most}");

    let refused =
        rig.client().call("heavy", &Weighing { bytes: 9 * mib, waits: false }).unwrap_err().to_string();
    assert!(
        refused.starts_with("this needs about 9 MiB of memory, and requests may take 8 MiB"),
        "{refused}"
    );
}

#[test]
fn request_longer_than_the_switch_takes_is_not_sent() {
    let rig = Rig::with(SMALL);
    let error = rig.client().call("note", &named(&"x".repeat(300 * 1024))).unwrap_err();
    assert!(matches!(error, ClientError::TooLong { limit: 262_144, .. }), "{error}");
    assert!(rig.service.told.lock().is_empty());
}

#[test]
fn client_that_is_hung_up_on_in_the_middle_of_a_request_reads_the_reason() {
    // A switch that does not take the rest of what it refuses, as earlier ones did.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let refusing = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let result = json!({"protocol": 1, "version": "0.1.0"});
        writeln!(stream, "{}", json!({"jsonrpc": "2.0", "id": 1, "result": result})).unwrap();
        stream.read_exact(&mut [0; 1024]).unwrap();
        let error = json!({"code": -32600, "message": "too much"});
        writeln!(stream, "{}", json!({"jsonrpc": "2.0", "id": null, "error": error})).unwrap();
    });
    let mut client = Client::connect(&path).unwrap();
    let error = client.call("note", &named(&"x".repeat(8 * 1024 * 1024))).unwrap_err();
    refusing.join().unwrap();
    assert_eq!(error.to_string(), "too much");
}

#[test]
fn replies_follow_json_rpc() {
    let rig = Rig::start();
    let hello = rig.reply_to(r#"{"jsonrpc":"2.0","id":"a","method":"hello"}"#);
    assert_eq!(
        (&hello["jsonrpc"], &hello["id"], &hello["result"]["protocol"]),
        (&json!("2.0"), &json!("a"), &json!(1))
    );
    let deep = "[".repeat(MAX_LINE_BYTES - 1);
    for (line, code) in [
        ("{", -32700),
        (&deep, -32700),
        ("\u{1}\u{2} garbage", -32700),
        ("[]", -32600),
        (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
        (r#"{"id":1,"method":"hello"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":{},"method":"hello"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"hello"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"hello","params":{"x":1}}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"reboot"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"show"}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"show","params":{"name":"vm9"}}"#, 1),
    ] {
        let reply = rig.reply_to(line);
        assert_eq!(reply["error"]["code"], code, "{line}: {reply}");
        assert!(reply.get("result").is_none());
    }
}

#[test]
fn a_request_without_id_is_carried_out_and_not_answered() {
    let rig = Rig::start();
    let mut stream = rig.raw();
    let quiet = r#"{"jsonrpc":"2.0","method":"note","params":{"name":"vm0"}}"#;
    let asked = r#"{"jsonrpc":"2.0","id":5,"method":"hello"}"#;
    stream.write_all(format!("{quiet}\n\n{asked}\n").as_bytes()).unwrap();
    assert_eq!(read_reply(&stream)["id"], 5);
    assert_eq!(*rig.service.told.lock(), ["vm0"]);
}

#[test]
fn a_line_in_pieces_is_one_line() {
    let rig = Rig::start();
    let mut stream = rig.raw();
    for piece in [r#"{"jsonrpc":"2.0","#, r#""id":1,"method""#, ":\"hello\"}\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(read_reply(&stream)["id"], 1);
}

#[test]
fn a_huge_line_ends_its_connection_only() {
    let rig = Rig::start();
    let mut stream = rig.raw();
    // All of it can be sent, and more: the server takes it and forgets it, so that the client comes to read why.
    stream.write_all(&vec![b'x'; MAX_LINE_BYTES + 4 * 1024 * 1024]).unwrap();
    let reply = read_reply(&stream);
    assert_eq!(reply["error"]["code"], -32600);
    assert!(reply["error"]["message"].as_str().unwrap().starts_with("line longer than 16777216 bytes"));
    assert_closed(&stream);
    rig.assert_answers();
}

#[test]
fn half_a_line_and_silence_ends_after_a_while_and_holds_nobody_up() {
    let rig = Rig::start();
    let mut stream = rig.raw();
    stream.write_all(b"{\"jsonrpc\"").unwrap();
    let begun = Instant::now();
    rig.assert_answers();
    assert!(begun.elapsed() < Limits::default().patience);
    assert_closed(&stream);
    assert!(begun.elapsed() >= Limits::default().patience - Duration::from_secs(1));
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let rig = Rig::start();
    let mut stream = rig.raw();
    stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"long\"}\n").unwrap();
    thread::sleep(Duration::from_millis(50));
    let begun = Instant::now();
    rig.assert_answers();
    assert!(begun.elapsed() < Limits::default().patience);
}

#[test]
fn a_hundred_silent_connections_leave_room_for_the_operator() {
    let rig = Rig::start();
    let silent: Vec<UnixStream> = (0..100).map(|_| rig.raw()).collect();
    rig.assert_answers();
    // Those silent for longest made room.
    for stream in &silent[..100 - MAX_CLIENTS] {
        assert_closed(stream);
    }
    let newest = silent.last().unwrap();
    newest.set_nonblocking(true).unwrap();
    let open = (&*newest).read(&mut [0; 1]).unwrap_err();
    assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn dropping_the_server_ends_clients_and_removes_the_socket_at_once() {
    let rig = Rig::start();
    let stream = rig.raw();
    rig.assert_answers();
    let begun = Instant::now();
    drop(rig.server);
    assert!(!rig.path.exists());
    assert_closed(&stream);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[test]
fn dropped_server_has_let_go_of_the_switch_though_clients_were_connected() {
    for _ in 0..20 {
        let rig = Rig::start();
        let clients: Vec<_> = (0..4).map(|_| rig.client()).collect();
        drop(rig.server);
        assert_eq!(Arc::strong_count(&rig.service), 1);
        drop(clients);
    }
}

#[test]
fn nobody_at_the_socket_says_what_to_try() {
    let error = Client::connect("/nonexistent/s".as_ref()).unwrap_err().to_string();
    assert!(error.starts_with("--socket /nonexistent/s: "), "{error}");
    assert!(
        error.ends_with("is vsteer running there? name its control socket with --socket PATH"),
        "{error}"
    );
}

#[test]
fn another_protocol_is_refused_by_the_client() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let answering = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let result = json!({"protocol": 2, "version": "9.9"});
        writeln!(stream, "{}", json!({"jsonrpc": "2.0", "id": 1, "result": result})).unwrap();
    });
    let error = Client::connect(&path).unwrap_err().to_string();
    answering.join().unwrap();
    assert!(error.contains("vsteer 9.9 speaks control protocol 2, this one speaks 1"), "{error}");
}
