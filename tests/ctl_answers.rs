//! What `vsteer ctl` makes of a switch that answers oddly: an older or newer one, one that ends, or something else altogether.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod rig;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::thread;

use self::rig::vsteer;

const HELLO: &str = r#"{"jsonrpc":"2.0","id":1,"result":{"protocol":1,"version":"x"}}"#;
const BEGINS: &str = r#"{"jsonrpc":"2.0","id":2,"result":null}"#;

/// What the client says on standard error, if a switch says hello, then `answer`, and ends. Everything that is not a complete
/// answer must end in a failure that prints nothing.
fn refusal(words: &[&str], answer: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            for answer in [format!("{HELLO}\n").as_bytes(), answer] {
                stream.read_line(&mut String::new()).unwrap();
                stream.get_mut().write_all(answer).unwrap();
            }
        });
        vsteer(["ctl", "--socket"]).arg(&path).args(words).output().unwrap()
    });
    let error = String::from_utf8(output.stderr).unwrap();
    let told = String::from_utf8_lossy(answer);
    assert_eq!(output.status.code(), Some(1), "{words:?} {told}: {error}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{words:?} {told}");
    assert_eq!(error.lines().count(), 1, "{error}");
    error
}

#[test]
fn stream_that_is_none_or_ends_or_is_odd_is_a_failure_that_says_why() {
    for method in ["monitor", "top"] {
        let item = |params: &str| format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
        let stream = |items: &str| format!("{BEGINS}\n{items}");
        let cases: &[(String, &str)] = &[
            (String::new(), "the switch ended it"),
            (r#"{"jsonrpc":"2.0","id":2,"resu"#.into(), "it ended in the middle of a reply"),
            (BEGINS.into(), "it ended in the middle of a reply"),
            (
                "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":[]}\n".into(),
                "is answered by a result, not by a stream",
            ),
            ("{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":null}\n".into(), "the reply is to another request"),
            ("{\"jsonrpc\":\"2.0\",\"id\":2}\n".into(), "the reply has no result"),
            (
                "{\"jsonrpc\":\"2.0\",\"id\":2,\"error\":{\"code\":-32601,\"message\":\"unknown method\"}}\n"
                    .into(),
                "unknown method",
            ),
            ("SSH-2.0-OpenSSH_9.2\n".into(), "the reply is none of JSON-RPC"),
            (stream(""), "the switch ended it"),
            (stream(r#"{"jsonrpc":"2.0","meth"#), "it ended in the middle of a reply"),
            (stream(&item("{}")), "it ended in the middle of a reply"),
            (stream("\n"), "an item is none of JSON-RPC"),
            (stream(&format!("{}\n", item(r#"{"novelty":{"x":1}}"#))), "the reply is odd"),
            (stream(&format!("{}\n", item("7"))), "the reply is odd"),
            (
                stream("{\"jsonrpc\":\"2.0\",\"method\":\"news\",\"params\":{}}\n"),
                "\"news\" came in the stream of",
            ),
            (stream("{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":[]}\n"), "no item came in the stream of"),
            (stream(&format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\"}}\n")), "an item has no params"),
            (
                stream(
                    "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":3,\"message\":\"no more of it\"}}\n",
                ),
                "no more of it",
            ),
        ];
        for (answer, expected) in cases {
            for words in [&[method][..], &[method, "--json"]] {
                let error = refusal(words, answer.as_bytes());
                assert!(error.starts_with("vsteer: ") && error.contains(expected), "{answer}: {error}");
            }
        }
        let error = refusal(&[method], &[BEGINS.as_bytes(), b"\n\xff\xfe\n"].concat());
        assert!(error.contains("an item is none of JSON-RPC"), "{error}");
    }
}

#[test]
fn result_that_is_cut_short_or_is_none_is_a_failure_that_says_why() {
    for words in [&["port", "list"][..], &["flow", "dump-flows"], &["stats"], &["drops"], &["cache", "show"]]
    {
        for json in [&[][..], &["--json"]] {
            let words = [words, json].concat();
            let error = refusal(&words, br#"{"jsonrpc":"2.0","id":2,"result":[{"name":"vm"#);
            assert!(error.contains("it ended in the middle of a reply"), "{error}");
            // A switch that answers this by a stream.
            let error = refusal(&words, format!("{BEGINS}\n").as_bytes());
            assert!(error.contains("the reply is odd"), "{error}");
            let error = refusal(&words, b"\xff\n");
            assert!(error.contains("the reply is none of JSON-RPC"), "{error}");
        }
    }
}
