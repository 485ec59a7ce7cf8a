//! Commands: their output while they run and after, their time, their folder, and what they leave behind.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use crate::{
    events::check_against_reads,
    support::{
        Event, Server, Sse, Value,
        model::{bash, call, text},
        until,
    },
    tools::{events_named, ready, run},
};

/// Waits, in a command, for what the test puts into the workspace.
const GO: &str = "while [ ! -e go ]; do sleep 0.01; done";

fn go(server: &Server) {
    fs::write(server.workspace().join("go"), "").expect("a file");
}

/// The figures beside the result of the last answer's only call.
async fn metadata(server: &Server) -> Value {
    let messages = server.rest.messages().await;
    let last = messages.iter().rev().find(|message| message["role"] == "tool").expect("a result");
    last["parts"][0]["metadata"].clone()
}

fn process(pid: &str) -> PathBuf {
    Path::new("/proc").join(pid.trim().parse::<u32>().expect("a pid").to_string())
}

/// Its parent may be about to reap it.
async fn ended(pid: &str) {
    let process = process(pid);
    let state = || fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "));
    until("the end of the process", async || (!state()).then_some(())).await;
}

#[tokio::test]
async fn a_result_has_the_output_and_how_it_ended() {
    let (model, server) = ready().await;
    for (command, result, figures) in [
        ("echo out; echo err >&2; exit 7", "out\nerr\nexit code 7", json!([7, false, 8])),
        ("true", "(no output)\nexit code 0", json!([0, false, 0])),
        ("printf 'no line end'", "no line end\nexit code 0", json!([0, false, 11])),
        ("kill -9 $$", "(no output)\nended by signal 9", json!([137, false, 0])),
        // Nobody types anything.
        ("cat; read -r line; echo \"[$line]\"", "[]\nexit code 0", json!([0, false, 3])),
        ("printf 'a\\377b'", "a\u{fffd}b\nexit code 0", json!([0, false, 3])),
        ("tty", "not a tty\nexit code 1", json!([1, false, 10])),
    ] {
        let ran = run(&model, &server, vec![bash(command)]).await;
        assert_eq!(ran.good(), result, "{command}");
        let found = metadata(&server).await;
        assert_eq!(json!([found["exit_code"], found["timed_out"], found["output_bytes"]]), figures, "{command}");
    }
    let ran = run(&model, &server, vec![bash("nonsense-of-nobody")]).await;
    assert!(ran.good().contains("not found") && ran.good().ends_with("\nexit code 127"), "{}", ran.good());
    let ran = run(&model, &server, vec![bash("echo 'never closed")]).await;
    assert!(ran.good().contains("unexpected EOF"), "{}", ran.good());
    let ran = run(&model, &server, vec![bash(&format!(": {}", "x".repeat(128 * 1024)))]).await;
    assert!(ran.bad().contains("too long"), "{}", ran.bad());
    check_against_reads(&server).await;
}

#[tokio::test]
async fn the_model_is_told_the_first_and_the_last_half_of_much_output() {
    let (model, server) = ready().await;
    let all: String = (1..=20_000).map(|number| format!("{number}\n")).collect();
    let ran = run(&model, &server, vec![bash("seq 1 20000")]).await;
    let cut = all.len() - 30_000;
    let expected = format!("{}\n[{cut} bytes cut here]\n{}exit code 0", &all[..15_000], &all[all.len() - 15_000..]);
    assert_eq!(ran.good(), expected);
    assert_eq!(metadata(&server).await["output_bytes"], all.len());
    // No character is split at a cut, and those halves are counted as cut.
    let ran = run(&model, &server, vec![bash("printf a; yes ä | head -n 20000 | tr -d '\\n'; printf a")]).await;
    let half = "ä".repeat(7_499);
    let expected = format!("a{half}\n[{} bytes cut here]\n{half}a\nexit code 0", 40_002 - 2 * 14_999);
    assert_eq!(ran.good(), expected);
    let ran = run(&model, &server, vec![bash("head -c 30000 /dev/zero | tr '\\0' x")]).await;
    assert_eq!(ran.good(), format!("{}\nexit code 0", "x".repeat(30_000)), "so much is not cut");
}

#[tokio::test]
async fn output_is_seen_while_the_command_runs() {
    let (model, server) = ready().await;
    // Half of a character waits for the other.
    model.then(vec![bash(&format!("printf 'ready\\303'; {GO}; printf '\\251 went'"))]);
    model.then(vec![text("Done.")]);
    let mut stream = server.rest.say(&json!({"text": "Go."})).await;
    let begun = stream.until("tool_output_delta").await;
    let delta = &begun[begun.len() - 1].json;
    assert_eq!(delta["text"], "ready");
    let started = events_named(&begun, "tool_call_started").next().expect("it was started").clone();
    for field in ["message_id", "part_index", "tool_call_id", "turn_id"] {
        assert_eq!(delta[field], started[field], "{field}");
    }
    // Who reads now sees as much.
    let open = &server.rest.messages().await[2]["parts"][0];
    assert_eq!((&open["content"], &open["tool_call_id"]), (&json!("ready"), &started["tool_call_id"]));
    go(&server);
    let rest = stream.rest().await;
    let shown: String = events_named(&rest, "tool_output_delta").map(|event| event["text"].as_str().unwrap()).collect();
    assert_eq!(shown, "é went");
    let completed = events_named(&rest, "tool_call_completed").next().expect("it was completed");
    assert_eq!(completed["output"], "readyé went\nexit code 0");
    check_against_reads(&server).await;
}

/// Reads deltas until so many bytes were shown.
async fn shown(stream: &mut Sse, bytes: usize) -> Vec<Event> {
    let (mut deltas, mut total) = (Vec::new(), 0);
    while total < bytes {
        let delta = stream.until("tool_output_delta").await.pop().expect("an event");
        total += delta.json["text"].as_str().expect("text").len();
        deltas.push(delta);
    }
    deltas
}

#[tokio::test]
async fn what_is_shown_of_a_command_is_bounded() {
    const PIECE: usize = 16 * 1024;
    const ALL: usize = 1024 * 1024;
    let (model, server) = ready().await;
    model.then(vec![bash(&format!("head -c 3000000 /dev/zero | tr '\\0' x; {GO}; echo last"))]);
    model.then(vec![text("Done.")]);
    let mut stream = server.rest.say(&json!({"text": "Go."})).await;
    let deltas = shown(&mut stream, ALL).await;
    go(&server);
    let rest = stream.rest().await;
    let size = |event: &Value| event["text"].as_str().expect("text").len();
    for delta in &deltas {
        assert!(size(&delta.json) <= PIECE, "{}", size(&delta.json));
        assert!(delta.json.get("truncated").is_none_or(|truncated| truncated == false), "only the last one says so");
    }
    assert_eq!(deltas.iter().map(|delta| size(&delta.json)).sum::<usize>(), ALL);
    let last: Vec<&Value> = events_named(&rest, "tool_output_delta").collect();
    assert_eq!(last.len(), 1, "{last:?}");
    assert_eq!((&last[0]["text"], &last[0]["truncated"]), (&json!(""), &json!(true)));
    // The command was not slowed by it, and the result is what it always is.
    let completed = events_named(&rest, "tool_call_completed").next().expect("it was completed");
    let output = completed["output"].as_str().expect("text");
    assert!(output.contains("[2970005 bytes cut here]") && output.ends_with("xlast\nexit code 0"), "{output:.100}");
    check_against_reads(&server).await;
}

#[tokio::test]
async fn gigabytes_are_read_and_forgotten() {
    let (model, server) = ready().await;
    let most = || -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a line");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    };
    run(&model, &server, vec![bash("true")]).await;
    let before = most();
    let ran = run(&model, &server, vec![bash("yes | head -c 200000000")]).await;
    let half = "y\n".repeat(7_500);
    assert_eq!(ran.good(), format!("{half}\n[199970000 bytes cut here]\n{half}exit code 0"));
    let after = most();
    assert!(after < before + 32 * 1024, "{before} KiB before and {after} KiB after");
    let deltas: Vec<&Value> = events_named(&ran.events, "tool_output_delta").collect();
    let completed = events_named(&ran.events, "tool_call_completed").next().expect("it was completed");
    let paced = completed["duration_ms"].as_u64().expect("a number") / 50 + 2;
    assert!(deltas.len() as u64 <= paced, "{} deltas in {completed:.100}", deltas.len());
    assert_eq!(deltas.last().map(|delta| &delta["truncated"]), Some(&json!(true)));
    let log: usize = server.rest.log().await.iter().map(|event| event.json.to_string().len()).sum();
    assert!(log < 2 * 1024 * 1024, "{log} bytes in the log");
}

#[tokio::test]
async fn a_command_has_its_time_and_no_more() {
    let (model, server) = ready().await;
    let endless = json!({"command": "echo $$; exec sleep 100000", "timeout_ms": 300, "description": "Sleeps"});
    let ran = run(&model, &server, vec![call("bash", &endless)]).await;
    let (pid, words) = ran.bad().split_once('\n').expect("two lines");
    assert_eq!(words, "timed out after 300 ms; the command was ended");
    ended(pid).await;
    let expected =
        json!({"exit_code": null, "timed_out": true, "output_bytes": pid.len() + 1, "description": "Sleeps"});
    assert_eq!(metadata(&server).await, expected);
    // One that prints for ever and does not want to end.
    let stubborn = json!({"command": "trap '' TERM; echo $$; while :; do echo still here; done", "timeout_ms": 300});
    let ran = run(&model, &server, vec![call("bash", &stubborn)]).await;
    assert!(ran.bad().ends_with("still here\ntimed out after 300 ms; the command was ended"), "{:?}", ran.bad().len());
    ended(ran.bad().lines().next().expect("a line")).await;
    check_against_reads(&server).await;
}

#[tokio::test]
async fn what_a_command_leaves_running_is_ended() {
    let (model, server) = ready().await;
    for command in [
        "sleep 100000 & echo $!",
        "(sleep 100000 & echo $!)",
        "nohup sleep 100000 > /dev/null 2>&1 & echo $!",
        // One that does not want to.
        "(trap '' TERM; echo $BASHPID > up; while :; do sleep 0.05; done) & while [ ! -s up ]; do sleep 0.01; done; cat up",
    ] {
        let ran = run(&model, &server, vec![bash(command)]).await;
        assert!(ran.good().ends_with("\n(what it left running was ended)\nexit code 0"), "{command}: {}", ran.good());
        for pid in ran.good().lines().filter(|line| line.bytes().all(|byte| byte.is_ascii_digit())) {
            ended(pid).await;
        }
    }
    // What has left the group holds the pipe, and nobody is held up by it.
    let away = "setsid sh -c 'echo $$ > pid; exec sleep 100000' & while [ ! -s pid ]; do sleep 0.01; done; echo gone";
    let ran = run(&model, &server, vec![bash(away)]).await;
    assert_eq!(ran.good(), "gone\n(what it left running was ended)\nexit code 0");
    ended(&fs::read_to_string(server.workspace().join("pid")).expect("a file")).await;
}

#[tokio::test]
async fn the_working_directory_is_kept_and_nothing_else() {
    let (model, server) = ready().await;
    let root = server.workspace().canonicalize().expect("a path");
    let it = async |command: &str| run(&model, &server, vec![bash(command)]).await.good().to_owned();
    let here = |folder: PathBuf| format!("{}\nexit code 0", folder.display());
    assert_eq!(it("pwd").await, here(root.clone()));
    it("mkdir -p 'a b/c' && cd 'a b/c'; mine=1; export also=2; say() { echo 3; }; alias x=y; set -f; umask 077").await;
    assert_eq!(it("pwd").await, here(root.join("a b/c")));
    assert_eq!(it("echo \"[$mine$also]\" *; type say x 2>/dev/null; umask").await, {
        let umask = it("sh -c umask").await;
        format!("[] *\n{umask}")
    });
    // The other tools go on from the root.
    let ran = run(&model, &server, vec![call("view", &json!({"path": "README.md"}))]).await;
    assert!(ran.good().contains("# A project"));
    // Whatever way the shell ends.
    assert!(it("cd ..; exit 3").await.ends_with("exit code 3"));
    assert_eq!(it("pwd").await, here(root.join("a b")));
    it("(cd c; true)").await;
    assert_eq!(it("pwd").await, here(root.join("a b")), "a shell in a shell is not this one");
    it("cd c; set -e; false; cd /").await;
    assert_eq!(it("pwd").await, here(root.join("a b/c")));
    it("cd ..; exit 0 'unclosed").await;
    assert_eq!(it("pwd").await, here(root.join("a b/c")), "what is no command changes nothing");
    // It is gone.
    fs::remove_dir_all(root.join("a b")).expect("a folder");
    let gone =
        format!("(the working directory {} is gone; this ran in the workspace root)", root.join("a b/c").display());
    assert_eq!(it("pwd").await, format!("{gone}\n{}", here(root.clone())));
    assert_eq!(it("pwd").await, here(root.clone()));
    // A new session begins at the root.
    it("cd /").await;
    assert_eq!(it("pwd").await, here(PathBuf::from("/")));
    server.rest.post("/session/reset", &json!({})).await.ok();
    assert_eq!(it("pwd").await, here(root));
}
