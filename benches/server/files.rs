//! Changes of the workspace: what a look at it costs, beside the git CLI on the same files in the same run.
//!
//! `BENCH_FILES` names other sizes of the workspace, such as `10000`.

use std::{
    fs::{self, OpenOptions},
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    Result,
    process::{Home, Process, health},
    table::{Numbers, Row, Table, short},
    tree::Tree,
};

const SIZES: [usize; 2] = [10_000, 100_000];
const WARM: usize = 15;
const COLD: usize = 3;
const FIRST: usize = 5;
const LISTED: usize = 7;
const EDITED: usize = 20;
const CHANGES: &str = "/files/changes";

pub(crate) fn measure(table: &mut Table) -> Result<()> {
    let wanted = std::env::var("BENCH_FILES").ok();
    let sizes: Vec<usize> = match &wanted {
        Some(list) => list.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None => SIZES.to_vec(),
    };
    for size in sizes {
        in_git(table, size)?;
    }
    Ok(())
}

/// A turn in a folder whose first version takes long.
pub(crate) fn measure_turn(table: &mut Table) -> Result<()> {
    let size = 100_000;
    let (small, large) = (Home::new()?, Home::new()?);
    let tree = Tree::write(&large.workspace(), size)?;
    let (_, alone) = one_turn(&small)?;
    let (server, during) = one_turn(&large)?;
    let was_busy = !Path::new(&large.manifest()).exists();
    let began = Instant::now();
    drop(server);
    let stopped = began.elapsed();
    table.add(Row::new(
        format!("a turn with one write, sent while the first version of {size} files without git is taken (ms)"),
        "waits 2,000 in all",
        format!(
            "{}{}; the server then stops in {} ms",
            ms(during),
            if was_busy { "" } else { " (the version was there before it ended)" },
            ms(stopped)
        ),
        format!("the same in an empty workspace: {}; {} files written", ms(alone), tree.files.len()),
    ));
    Ok(())
}

fn ms(time: Duration) -> String {
    short(time.as_secs_f64() * 1e3)
}

/// Starts a server and plays one turn at once. Answers the time from its POST to its end.
fn one_turn(home: &Home) -> Result<(Process, Duration)> {
    let call = json!({"name": "write", "input": {"path": "made.txt", "content": "made\n"}});
    let steps = [json!({"tool_calls": [call]})];
    let script = json!({"delay_ms": 0, "answers": [{"steps": steps}, {"steps": [{"text": "Done."}]}]});
    let file = home.path().join("script.json");
    fs::write(&file, script.to_string())?;
    let file = file.to_str().ok_or("the path is no text")?;
    let (server, address) = home.server(&[("OPENCODE_MOCK_SCRIPT", file)])?;
    let body = json!({"text": "Make it.", "model": "mock/script"}).to_string();
    let mut stream = TcpStream::connect(address)?;
    let began = Instant::now();
    write!(
        stream,
        "POST /messages HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAccept: text/event-stream\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut seen = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut piece)?;
        seen.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&seen);
        if text.contains("event: turn_completed") {
            break;
        }
        if count == 0 {
            return Err(format!("no end of the turn in {text}").into());
        }
    }
    let took = began.elapsed();
    if home.workspace().join("made.txt").exists() { Ok((server, took)) } else { Err("nothing was written".into()) }
}

/// Everything that has the git CLI beside it.
fn in_git(table: &mut Table, size: usize) -> Result<()> {
    let empty = Home::new()?;
    let (idle, address) = empty.server(&[])?;
    health(address)?;
    std::thread::sleep(Duration::from_secs(1));
    let base = idle.memory("VmRSS")?;
    drop(idle);
    let home = Home::new()?;
    let tree = Tree::write(&home.workspace(), size)?;
    tree.commit()?;
    let (server, address) = first(table, &home, &tree)?;
    unchanged(table, &tree, address)?;
    heard(table, &tree, address)?;
    edits(table, &tree, address)?;
    list(table, &tree, address)?;
    let (peak, now) = (server.memory("VmHWM")?, server.memory("VmRSS")?);
    table.add(Row::new(
        format!("{size} files: RSS at its highest over all these, above the server on an empty folder (MiB)"),
        "128",
        format!("{}, at the end {}", short((peak - base) / 1024.0), short((now - base) / 1024.0)),
        format!("the server on an empty folder {}", short(base / 1024.0)),
    ));
    Ok(())
}

fn first(table: &mut Table, home: &Home, tree: &Tree) -> Result<(Process, SocketAddr)> {
    let (mut times, mut git) = (Numbers::default(), Numbers::default());
    let mut last = None;
    for run in 0..FIRST {
        drop(last.take());
        // Moved and not removed: ext4 is slow to make files where many were just deleted.
        let _ = fs::rename(home.data(), home.path().join(format!("data-{run}")));
        git.push_ms(status(tree)?);
        let began = Instant::now();
        let (server, address) = home.server(&[])?;
        // Waits for the baseline.
        get(address, CHANGES)?;
        times.push_ms(began.elapsed());
        last = Some((server, address));
    }
    table.add(Row::new(
        format!("{} files: server start to first version, {FIRST} runs (min / median / max, ms)", tree.files.len()),
        "1,000",
        times.spread(),
        format!("git status -uall {}", git.spread()),
    ));
    last.ok_or_else(|| "it never ran".into())
}

fn unchanged(table: &mut Table, tree: &Tree, address: SocketAddr) -> Result<()> {
    for (name, target, rounds) in [("warm", "2 x", WARM), ("cold", "2.5 x", COLD)] {
        let (mut ours, mut git) = (Numbers::default(), Numbers::default());
        if name == "cold" && !forget_cache() {
            eprintln!("  the cold rows are left out: the page cache cannot be emptied here");
            continue;
        }
        for round in 0..rounds {
            tree.touch_rules()?;
            let mut git_turn = || -> Result<()> {
                let _ = name == "cold" && forget_cache();
                git.push_ms(status(tree)?);
                Ok(())
            };
            // Neither always comes second.
            if round % 2 == 0 {
                git_turn()?;
            }
            let _ = name == "cold" && forget_cache();
            let (time, answer) = get(address, CHANGES)?;
            nothing(&answer)?;
            ours.push_ms(time);
            if round % 2 == 1 {
                git_turn()?;
            }
        }
        table.add(Row::new(
            format!(
                "{} files, nothing changed, every file looked at, {name} (min / median / max, ms)",
                tree.files.len()
            ),
            target,
            format!("{}; {}", ours.spread(), times(&ours, &git)),
            format!("git status -uall {}", git.spread()),
        ));
    }
    Ok(())
}

fn heard(table: &mut Table, tree: &Tree, address: SocketAddr) -> Result<()> {
    let mut ours = Numbers::default();
    for _ in 0..2 * WARM {
        let (time, answer) = get(address, CHANGES)?;
        nothing(&answer)?;
        ours.push_ms(time);
    }
    table.add(Row::new(
        format!("{} files, nothing changed, none heard of (min / median / max, ms)", tree.files.len()),
        "20",
        ours.spread(),
        "",
    ));
    Ok(())
}

fn edits(table: &mut Table, tree: &Tree, address: SocketAddr) -> Result<()> {
    let step = (tree.files.len() / EDITED).max(1);
    let (mut whole, mut heard, mut git) = (Numbers::default(), Numbers::default(), Numbers::default());
    for round in 0..2 * WARM {
        for file in tree.files.iter().step_by(step).take(EDITED) {
            writeln!(OpenOptions::new().append(true).open(file)?, "// edit {round}")?;
        }
        let is_whole = round % 2 == 0;
        if is_whole {
            tree.touch_rules()?;
        }
        // Ours comes first: the server would hear of the edits and look at them while git runs.
        let (time, answer) = get(address, CHANGES)?;
        let began = Instant::now();
        tree.git(&["status", "-uall"])?;
        tree.git(&["diff"])?;
        git.push_ms(began.elapsed());
        let found = answer["changes"].as_array().map_or(0, Vec::len);
        let with_diff = answer["changes"].as_array().into_iter().flatten().filter(|change| change["diff"].is_string());
        if found != EDITED || with_diff.count() != EDITED {
            return Err(format!("{found} changes of {EDITED}").into());
        }
        if is_whole { &mut whole } else { &mut heard }.push_ms(time);
    }
    let what = format!("{} files, {EDITED} edited, changes with diffs", tree.files.len());
    let beside = format!("git status -uall and git diff {}", git.spread());
    for (how, ours) in [("every file looked at", whole), ("as heard of", heard)] {
        table.add(Row::new(
            format!("{what}, {how} (min / median / max, ms)"),
            "1.5 x",
            format!("{}; {}", ours.spread(), times(&ours, &git)),
            beside.clone(),
        ));
    }
    Ok(())
}

/// All files with size and time, page by page.
fn list(table: &mut Table, tree: &Tree, address: SocketAddr) -> Result<()> {
    let (mut ours, mut peer) = (Numbers::default(), Numbers::default());
    let has_peer = Command::new("rg").arg("--version").output().is_ok();
    for _ in 0..LISTED {
        if has_peer {
            let began = Instant::now();
            let names = tree.run(Command::new("rg").args(["--files", "--hidden", "--glob=!.git", "--sort=path"]))?;
            for name in String::from_utf8(names)?.lines() {
                fs::symlink_metadata(tree.root.join(name))?;
            }
            peer.push_ms(began.elapsed());
        }
        let (mut time, mut count, mut cursor) = (Duration::ZERO, 0, String::new());
        loop {
            let (took, answer) = get(address, &format!("/files?recursive=true&cursor={cursor}"))?;
            time += took;
            count += answer["files"].as_array().map_or(0, Vec::len);
            match answer["pagination"]["next_cursor"].as_str() {
                Some(next) => cursor = next.to_owned(),
                None => break,
            }
        }
        if count < tree.files.len() {
            return Err(format!("{count} files listed of {}", tree.files.len()).into());
        }
        ours.push_ms(time);
    }
    let beside = format!("rg --files --sort path and an lstat of each {}", peer.spread());
    table.add(Row::new(
        format!("{} files, all listed in pages of 10,000 (min / median / max, ms)", tree.files.len()),
        "1.2 x",
        if has_peer { format!("{}; {}", ours.spread(), times(&ours, &peer)) } else { ours.spread() },
        if has_peer { &beside } else { "rg is not installed" },
    ));
    Ok(())
}

/// How many times as long as the peer, by the smallest and the middle.
fn times(ours: &Numbers, peer: &Numbers) -> String {
    format!("{:.2} x by the least, {:.2} x by the median", ours.at(0.0) / peer.at(0.0), ours.median() / peer.median())
}

fn status(tree: &Tree) -> Result<Duration> {
    let began = Instant::now();
    tree.git(&["status", "-uall"])?;
    Ok(began.elapsed())
}

fn nothing(answer: &Value) -> Result<()> {
    if answer["changes"].as_array().is_some_and(Vec::is_empty) { Ok(()) } else { Err(format!("{answer}").into()) }
}

/// Empties the page cache. False where this may not be done.
fn forget_cache() -> bool {
    let _ = Command::new("sync").status();
    fs::write("/proc/sys/vm/drop_caches", "3").is_ok()
}

/// Asks over a connection of its own. Answers the time to the end of the answer.
fn get(address: SocketAddr, path: &str) -> Result<(Duration, Value)> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(address)?;
    // HTTP/1.0: the answer ends with the connection, in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let took = began.elapsed();
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    if !head.contains(" 200 ") {
        return Err(format!("{path}: {text}").into());
    }
    Ok((took, serde_json::from_str(body)?))
}
