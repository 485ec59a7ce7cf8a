//! Nothing that a command has started outlives it, whatever it does against that: cancelled, at its end, at reset, when
//! the server stops or is killed.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use serde_json::json;

use crate::{
    events::check_against_reads,
    support::{
        Dialect, Model, Server, Setup, Sse, Value,
        model::{bash, text},
        processes::Mark,
        soon, until,
    },
    tools::{ready, run},
};

/// What commands do to live on. Each says `ready` when all is there that is to be ended.
const ESCAPES: [(&str, &str); 12] = [
    ("ignores TERM", "trap '' TERM; echo ready; while :; do sleep 0.1; done"),
    ("nohup", "nohup sh -c 'echo ready >&2; exec sleep 1001' & wait"),
    ("setsid", "setsid sh -c 'echo ready; exec sleep 1001' & wait; sleep 1001"),
    ("double fork", "(setsid sh -c '(echo ready; exec sleep 1001) & exit' &); sleep 1001"),
    ("another group", "set -m; sh -c 'echo ready; exec sleep 1001' & wait"),
    ("a grandchild holds the pipes", "(sleep 1001; echo never) & disown; exec sh -c 'echo ready; sleep 1001; true'"),
    ("stopped", "setsid sh -c 'echo ready; kill -STOP $$; sleep 1001' & wait; sleep 1001"),
    (
        "deaf in a session of its own",
        "setsid sh -c 'trap \"\" TERM HUP; echo ready; while :; do sleep 0.1; done' & wait",
    ),
    (
        "far below",
        "sh -c 'sh -c \"setsid sh -c \\\"sleep 1001 & echo ready; wait\\\" & wait; :\" & wait; :'; sleep 1001",
    ),
    (
        "its keeper asked to go",
        "kill -TERM $PPID; kill -INT $PPID; kill -HUP $PPID; setsid sleep 1001 & echo ready; wait",
    ),
    ("its keeper stopped", "(setsid sleep 1001 &); kill -STOP $PPID; echo ready; sleep 1001"),
    // Nobody is there for longer than a moment: who was seen has gone already.
    ("on the run", "hop() { setsid bash -c 'hop & exit' & }; export -f hop; hop; echo ready; sleep 1001"),
];

/// A server with a marked command that has begun.
async fn begun(setup: &Setup, model: &Model, command: &str) -> (Server, Mark, Sse) {
    let (setup, mark) = setup.marked();
    let server = setup.start();
    model.then(vec![bash(command)]);
    let mut stream = server.rest.say(&json!({"text": "Run."})).await;
    let output = stream.until("tool_output_delta").await.pop().expect("an event").json;
    assert!(output["text"].as_str().is_some_and(|text| text.contains("ready\n")), "{command}: {output}");
    (server, mark, stream)
}

/// Cancels, and proves that all has gone when it is answered.
async fn cancel(server: &Server, mark: &Mark, what: &str) -> Value {
    let canceled = server.rest.post("/agent/cancel", &json!({})).await.ok();
    // At once, and not soon: the answer is the proof.
    assert_eq!(mark.others(server), [""; 0], "{what}: {canceled}");
    assert_eq!((&canceled["canceled"], &canceled["processes_left"]), (&json!(true), &json!([])), "{what}: {canceled}");
    // TERM has a second; KILL needs no time to speak of.
    assert!(canceled["took_ms"].as_u64().is_some_and(|took| took < 2_000), "{what}: {canceled}");
    canceled
}

/// The next message works, and the log is as it has to be.
async fn goes_on(server: &Server, model: &Model, stream: &mut Sse) {
    stream.rest().await;
    model.then(vec![text("At your service.")]);
    assert_eq!(server.rest.ask("Again.").await["turn"]["finish_reason"], "end_turn");
    check_against_reads(server).await;
}

async fn nothing_escapes_a_cancel(setup: impl Fn(&Model) -> Setup) {
    for (what, command) in ESCAPES {
        let model = Model::start(Dialect::Anthropic, []).await;
        let (server, mark, mut stream) = begun(&setup(&model), &model, command).await;
        let there = mark.others(&server);
        let is_keeper = |line: &&String| line.contains("opencode-api keep-command");
        assert_eq!(there.iter().filter(is_keeper).count(), 1, "{what}: {there:?}");
        assert!(there.len() >= 2, "{what}: {there:?}");
        let canceled = cancel(&server, &mark, what).await;
        let named = canceled["processes_ended"].as_array().expect("a list");
        if what == "stopped" {
            // Who is stopped is let go on, so that it can end by itself.
            assert!(named.iter().all(|ended| ended["how"] == "term"), "{canceled}");
        }
        for line in there.iter().filter(|line| !is_keeper(line)) {
            let pid: u32 = line.split(':').next().expect("a pid").parse().expect("a number");
            // These end by themselves.
            let is_short = what == "on the run" || line.ends_with("sleep 0.1");
            let is_named = named.iter().any(|ended| ended["pid"] == pid);
            assert!(is_named || is_short, "{what}: {line} is not named in {canceled}");
        }
        goes_on(&server, &model, &mut stream).await;
    }
}

#[tokio::test]
async fn nothing_escapes_a_cancel_of_root() {
    nothing_escapes_a_cancel(Setup::with).await;
}

/// Root may have control groups; this is by the process table alone.
#[tokio::test]
async fn nothing_escapes_a_cancel_of_a_user_without_rights() {
    nothing_escapes_a_cancel(|model| Setup::with(model).without_rights()).await;
}

/// Fills the room that the user has for processes. `{}` is what does it.
fn bomb(what: &str) -> String {
    let own = r#"$(cat /proc/[0-9]*/task/*/status 2>/dev/null | grep -c "^Uid:[[:space:]]*$UID[[:space:]]")"#;
    format!("ulimit -u $(({own} + 150)); exec 2>/dev/null\n{what}\necho ready; wait; sleep 1001")
}

#[tokio::test]
async fn a_fork_bomb_is_ended() {
    for what in [
        "bomb() { bomb | bomb & }; bomb",
        // Each in a session of its own, so that no signal reaches two of them.
        "bomb() { setsid bash -c 'bomb; bomb; wait' & }; export -f bomb; bomb; bomb",
        // They do not want to end, and none of them ever rests.
        "bomb() { trap '' TERM; while :; do bomb & done; }; bomb &",
    ] {
        let model = Model::start(Dialect::OpenAi, []).await;
        let setup = Setup::with(&model).without_rights();
        let (server, mark, mut stream) = begun(&setup, &model, &bomb(what)).await;
        until("a room full of processes", async || (mark.all().len() > 120).then_some(())).await;
        let canceled = cancel(&server, &mark, what).await;
        let named = canceled["processes_ended"].as_array().expect("a list").len();
        assert!(named > 20, "{what}: {named} are named");
        goes_on(&server, &model, &mut stream).await;
    }
}

/// Of another user, whom the server may not signal: to it that is as one that the kernel does not let go.
#[tokio::test]
async fn who_cannot_be_ended_is_told() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give a program its own rights");
        return;
    }
    let model = Model::start(Dialect::Anthropic, []).await;
    let setup = Setup::with(&model).without_rights();
    // Not in the folder of the test, all of which is given to the server's user.
    let folder = tempfile::tempdir().expect("a folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("open to all");
    let program = folder.path().join("setpriv");
    fs::copy("/usr/bin/setpriv", &program).expect("setpriv");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o4755)).expect("rights of root");
    let command =
        format!("{} --reuid 0 --regid 0 --clear-groups sh -c 'echo ready; exec sleep 1001'", program.display());
    let (server, mark, mut stream) = begun(&setup, &model, &command).await;
    let canceled = server.rest.post("/agent/cancel", &json!({})).await.ok();
    let left = canceled["processes_left"].as_array().expect("a list");
    let [one] = left.as_slice() else { panic!("not one is left: {canceled}") };
    assert_eq!((&canceled["canceled"], &one["command"]), (&json!(true), &json!("sleep 1001")));
    assert!(canceled["took_ms"].as_u64().is_some_and(|took| took < 3_000), "{canceled}");
    let shell = &canceled["processes_ended"][0];
    assert_eq!((&shell["command"], &shell["how"]), (&json!(command), &json!("term")));
    stream.rest().await;
    assert_eq!(server.rest.read("/agent/status").await["status"], "idle");
    // Its keeper stays until it has gone, which it does not by itself.
    assert_eq!(mark.others(&server).len(), 2);
    let pid = one["pid"].as_i64().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("one that this test has let begin");
    until("the end of the keeper", async || mark.others(&server).is_empty().then_some(())).await;
}

#[tokio::test]
async fn what_is_left_by_a_command_that_has_ended_is_ended() {
    let model = Model::start(Dialect::Anthropic, []).await;
    let (setup, mark) = Setup::with(&model).marked();
    let server = setup.start();
    for command in [
        "sleep 1001 &",
        "nohup sleep 1001 > /dev/null 2>&1 &",
        "setsid sleep 1001 > /dev/null 2>&1 &",
        "setsid sh -c 'setsid sleep 1001 >/dev/null & sleep 1001 & exit'",
        "kill -STOP $PPID; sleep 1001 & kill -CONT $PPID",
    ] {
        let ran = run(&model, &server, vec![bash(command)]).await;
        assert_eq!(ran.good(), "(no output)\n(what it left running was ended)\nexit code 0", "{command}");
        assert_eq!(mark.others(&server), [""; 0], "{command}");
    }
    // Whose own end nobody has seen.
    let ran =
        run(&model, &server, vec![bash("(setsid sleep 1001 &); sleep 1001 & kill -KILL $PPID; sleep 1001")]).await;
    assert!(
        ran.bad().starts_with("the command ended the process that watched over it, and was ended"),
        "{}",
        ran.bad()
    );
    assert_eq!(mark.others(&server), [""; 0]);
    let ran = run(&model, &server, vec![bash("echo well")]).await;
    assert_eq!(ran.good(), "well\nexit code 0");
    check_against_reads(&server).await;
}

/// A script may have started something before it went on as the server: that is none of the agent's.
#[tokio::test]
async fn what_is_older_than_the_server_is_let_be() {
    let model = Model::start(Dialect::OpenAi, []).await;
    let (setup, mark) = Setup::with(&model).beside("sleep 1002").marked();
    let server = setup.start();
    let ran = run(&model, &server, vec![bash("sleep 1001 & kill -KILL $PPID; sleep 1001")]).await;
    assert!(ran.bad().starts_with("the command ended the process that watched over it"), "{}", ran.bad());
    let beside = mark.all().into_iter().find(|(_, command)| command == "sleep 1002");
    assert!(beside.is_some(), "{:?}", mark.all());
    // Nobody else ends it.
    let pid = beside.and_then(|(pid, _)| rustix::process::Pid::from_raw(pid as i32)).expect("a pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it runs");
}

/// What runs in spite of all that a command can do, for the ends of the server.
const DEAF: &str = "(setsid sh -c 'trap \"\" TERM HUP; echo ready; while :; do sleep 0.1; done' &); sleep 1001";

#[tokio::test]
async fn nothing_survives_a_server_that_is_killed() {
    // Nobody but the kernel can wake a keeper that is stopped when its server goes.
    for command in [DEAF.to_owned(), format!("kill -STOP $PPID; {DEAF}")] {
        let model = Model::start(Dialect::OpenAi, []).await;
        let (mut server, mark, _stream) = begun(&Setup::with(&model), &model, &command).await;
        assert!(mark.others(&server).len() >= 4, "{:?}", mark.others(&server));
        server.kill();
        until("the end of all", async || mark.all().is_empty().then_some(())).await;
    }
}

#[tokio::test]
async fn a_keeper_that_is_stopped_again_and_again_is_ended_by_the_next_start() {
    let model = Model::start(Dialect::Anthropic, []).await;
    // Several, so that no moment is left in which it could do what it is woken for.
    let stop = "setsid bash -c 'while kill -STOP '$PPID'; do :; done' &";
    let command = format!("{stop} {stop} {stop} {DEAF}");
    let (mut server, mark, _stream) = begun(&Setup::with(&model), &model, &command).await;
    server.crash_and_restart();
    assert_eq!(mark.others(&server), [""; 0], "{}", server.log());
    server.rest.read("/session").await;
    check_against_reads(&server).await;
}

#[tokio::test]
async fn nothing_survives_a_server_that_stops() {
    let model = Model::start(Dialect::Anthropic, []).await;
    let (mut server, mark, _stream) = begun(&Setup::with(&model), &model, DEAF).await;
    server.terminate();
    let status = soon("the end of the server", server.ended()).await;
    assert_eq!((status.code(), mark.all()), (Some(0), Vec::new()));
    // Who does not wait for it either, asks twice.
    let setup = Setup::with(&model).env("OPENCODE_DRAIN_TIMEOUT", 600);
    let (mut server, mark, _stream) = begun(&setup, &model, DEAF).await;
    server.terminate();
    until("the drain", async || server.log().contains("stopping").then_some(())).await;
    server.signal(rustix::process::Signal::INT);
    let status = soon("the end of the server", server.ended()).await;
    assert_eq!(status.code(), Some(130), "as shells tell of a signal");
    until("the end of all", async || mark.all().is_empty().then_some(())).await;
}

#[tokio::test]
async fn nothing_survives_a_reset() {
    let model = Model::start(Dialect::Anthropic, []).await;
    let (server, mark, _stream) = begun(&Setup::with(&model), &model, DEAF).await;
    server.rest.post("/session/reset", &json!({})).await.ok();
    assert_eq!(mark.others(&server), [""; 0]);
}

#[tokio::test]
async fn a_command_inherits_nothing_but_its_output() {
    let (model, server) = ready().await;
    // The fourth is the folder that it reads.
    let ran = run(&model, &server, vec![bash("exec ls /proc/self/fd")]).await;
    assert_eq!(ran.good(), "0\n1\n2\n3\nexit code 0");
    let ran = run(&model, &server, vec![bash("readlink /proc/self/fd/0")]).await;
    assert_eq!(ran.good(), "/dev/null\nexit code 0");
    let ran = run(&model, &server, vec![bash("cut -d' ' -f6 /proc/$$/stat; echo $PPID")]).await;
    let (session, keeper) = ran.good().split_once('\n').expect("two lines");
    assert!(keeper.starts_with(&format!("{session}\n")), "a session without a terminal: {}", ran.good());
    let ran = run(&model, &server, vec![bash("exec cat /proc/self/status")]).await;
    let mask = |name: &str| {
        let line = ran.good().lines().find_map(|line| line.strip_prefix(name)).expect("a line");
        u64::from_str_radix(line.trim(), 16).expect("a mask")
    };
    assert_eq!((mask("SigBlk:"), mask("SigCgt:")), (0, 0));
    // HUP, INT, QUIT, USR1, USR2, PIPE, ALRM, TERM, CHLD.
    assert_eq!([1, 2, 3, 10, 12, 13, 14, 15, 17].map(|signal| mask("SigIgn:") >> (signal - 1) & 1), [0; 9]);
}

/// A job may run for days.
#[tokio::test]
async fn who_ends_below_a_command_is_reaped_while_it_runs() {
    let (model, server) = ready().await;
    let command = "for n in 1 2 3; do (setsid sh -c \"echo \\$\\$ > pid$n\" &); done
        for n in 1 2 3; do while [ ! -s pid$n ] || [ -e /proc/$(cat pid$n) ]; do :; done; done; echo none";
    let ran = run(&model, &server, vec![bash(command)]).await;
    assert_eq!(ran.good(), "none\nexit code 0");
}

/// Who is in a command's control group is ended with it, also if nothing else tells that it belongs to it.
#[tokio::test]
async fn a_control_group_is_ended_where_one_can_be_made() {
    let model = Model::start(Dialect::Anthropic, []).await;
    let (server, mark, mut stream) = begun(&Setup::with(&model), &model, "echo ready; sleep 1001").await;
    let shell = mark.all().into_iter().find(|(_, command)| command.starts_with("bash")).expect("a shell").0;
    let groups = fs::read_to_string(format!("/proc/{shell}/cgroup")).expect("it runs");
    let group =
        groups.lines().find_map(|line| line.strip_prefix("0::")).filter(|group| group.contains("/opencode-proc_"));
    let Some(group) = group else {
        let own = fs::read_to_string("/proc/mounts").expect("mounts");
        let place = own.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
        assert!(
            place.is_none_or(|line| line.split(' ').nth(3).is_some_and(|options| options.starts_with("ro"))),
            "cgroup v2 can be written here, and no group was made: {groups}"
        );
        eprintln!("skipped: there is no cgroup v2 that can be written");
        return;
    };
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("a mount");
    let folder = Path::new(mount.split(' ').nth(1).expect("a place")).join(group.trim_start_matches('/'));
    // A child of this test, which is below no keeper.
    let mut stranger = Command::new("sleep").arg("1001").spawn().expect("a process");
    fs::write(folder.join("cgroup.procs"), stranger.id().to_string()).expect("the group takes it");
    let canceled = cancel(&server, &mark, "a control group").await;
    let named = canceled["processes_ended"].as_array().expect("a list");
    assert!(named.iter().any(|ended| ended["pid"] == stranger.id()), "{canceled}");
    let waiting = tokio::task::spawn_blocking(move || stranger.wait().expect("a status"));
    let status = soon("the end of a member of the group", waiting).await.expect("waiting does not panic");
    assert!(!status.success());
    assert!(!folder.exists(), "the group goes with its command");
    goes_on(&server, &model, &mut stream).await;
}

/// The end of a command's owner and the last word of its keeper may meet: nobody is lost then.
#[tokio::test]
async fn no_keeper_of_a_short_command_is_taken_for_lost() {
    let model = Model::start(Dialect::OpenAi, []).await;
    let server = Setup::with(&model).start();
    for _ in 0..15 {
        run(&model, &server, vec![bash("true"), bash("true"), bash("true"), bash("true")]).await;
    }
    assert!(!server.log().contains("keeper was lost"), "{}", server.log());
}
