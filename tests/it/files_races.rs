//! A folder that is swapped for a link to the outside while requests run: nothing outside is read, written, named or
//! deleted, by any verb or tool.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::{Value, json};

use crate::{
    support::{
        Dialect, Door, Model, Server, Setup,
        files::route,
        model::{call, text},
    },
    through_every_door,
};

through_every_door! {
    a_folder_that_is_swapped_for_a_link;
    who_reads_meanwhile_sees_the_old_or_the_new;
}

const SECRET: &str = "outside";
/// How long requests and swaps run side by side.
const TIME: Duration = Duration::from_secs(2);

/// Swaps the folder and the link until it is dropped; counts how often.
struct Swapping {
    over: Arc<AtomicBool>,
    swaps: Arc<AtomicUsize>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapping {
    fn start(workspace: &Path) -> Self {
        let (over, swaps) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (folder, link) = (workspace.join("top/swapped"), workspace.join("top/other"));
        let (stop, count) = (Arc::clone(&over), Arc::clone(&swaps));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                // One of them may be missing for a moment where it is brought back.
                if renameat_with(CWD, &folder, CWD, &link, RenameFlags::EXCHANGE).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::yield_now();
            }
        });
        Self { over, swaps, thread: Some(thread) }
    }
}

impl Drop for Swapping {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn outside(server: &Server) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![server.setup().folder("outside")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            let name = entry.display().to_string();
            if entry.is_dir() {
                folders.push(entry);
                found.push((name, String::new()));
            } else {
                found.push((name, fs::read_to_string(entry).expect("a file")));
            }
        }
    }
    found.sort();
    found
}

/// A folder with files in the workspace, a like one outside, and a link to that.
fn prepare(setup: &Setup) {
    fs::create_dir_all(setup.folder("outside/below")).expect("folders");
    for name in ["file", "below/file", "below/secret-name"] {
        fs::write(setup.folder("outside").join(name), SECRET).expect("a file");
    }
    fs::create_dir_all(setup.workspace().join("top/swapped/below")).expect("folders");
    for name in ["file", "below/file"] {
        fs::write(setup.workspace().join("top/swapped").join(name), "inside").expect("a file");
    }
    symlink("../../outside", setup.workspace().join("top/other")).expect("a link");
}

#[tokio::test]
async fn tools_stay_inside_too() {
    let model = Model::start(Dialect::OpenAi, []).await;
    let setup = Setup::with(&model);
    prepare(&setup);
    let server = setup.start();
    let before = outside(&server);
    let calls = (0..15).flat_map(|number| {
        vec![
            call("ls", &json!({"path": "top"})),
            call("ls", &json!({"path": "top/swapped"})),
            call("glob", &json!({"pattern": "**/*"})),
            call("grep", &json!({"pattern": "outsid[e]"})),
            call("view", &json!({"path": "top/swapped/below/file"})),
            call("write", &json!({"path": format!("top/swapped/new-{number}/x"), "content": "inside"})),
        ]
    });
    model.then(calls.collect());
    model.then(vec![text("Done.")]);
    let swapping = Swapping::start(&server.workspace());
    let sent = server.rest.ask("Look around.").await;
    drop(swapping);
    assert_eq!(sent["turn"]["finish_reason"], "end_turn");
    let messages = server.rest.messages().await;
    let tool = messages.iter().find(|message| message["role"] == "tool").expect("results");
    let results = tool["parts"].as_array().expect("parts");
    assert_eq!(results.len(), 90);
    for result in results {
        let told = result["content"].as_str().expect("content");
        assert!(!told.contains("secret-name") && !told.contains(SECRET), "{told}");
    }
    assert_eq!(outside(&server), before);
}

/// What is looked at for a version, told of it and brought back.
#[tokio::test]
async fn versions_stay_inside_too() {
    let setup = Setup::new();
    prepare(&setup);
    let server = setup.start();
    let first = server.version().await;
    for name in ["file", "below/file", "below/new"] {
        fs::write(setup.workspace().join("top/swapped").join(name), "inside, too").expect("a file");
    }
    let second = server.version().await;
    let before = outside(&server);
    let swapping = Swapping::start(&server.workspace());
    let began = Instant::now();
    let mut made = 0;
    while began.elapsed() < TIME {
        for version in [&first, &second] {
            let done = server.rest.post("/files/revert", &json!({"version": version})).await.ok();
            let changes = server.rest.read(&format!("/files/changes?since_version={version}")).await;
            for answer in [&done, &changes] {
                // What the link leads to is the workspace's own to tell, and so is who changed it; what is there is not.
                let text = answer.to_string().replace("../../outside", "").replace(r#""by":"outside""#, "");
                assert!(!text.contains("secret-name") && !text.contains(SECRET), "{answer}");
            }
            made += done["changes"].as_array().map_or(0, Vec::len);
        }
    }
    let swaps = swapping.swaps.load(Ordering::Relaxed);
    drop(swapping);
    assert!(swaps > 100 && made > 10, "{swaps} swaps, {made} brought back");
    assert_eq!(outside(&server), before);
}

async fn who_reads_meanwhile_sees_the_old_or_the_new(door: Door) {
    const SIZE: usize = 400_000;
    let server = Setup::new().start();
    let client = server.through(door);
    let path = server.workspace().join("f");
    fs::write(&path, vec![b'a'; SIZE]).expect("a file");
    let over = Arc::new(AtomicBool::new(false));
    let reading = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || {
            let mut seen = std::collections::BTreeSet::new();
            while !over.load(Ordering::Relaxed) {
                let content = fs::read(&path).expect("it is there all the time");
                assert!(content.len() == SIZE && content.iter().all(|byte| *byte == content[0]), "half a file");
                seen.insert(content[0]);
            }
            seen.len()
        })
    };
    for letter in 'b'..='z' {
        let content = letter.to_string().repeat(SIZE);
        let upload = server.rest.request("PUT", "/raw/f").body(content.to_uppercase()).send();
        assert_eq!(upload.await.expect("an answer").status(), 200);
        client.write_file("f", json!({"content": content})).await.expect("a file");
    }
    over.store(true, Ordering::Relaxed);
    let seen = reading.join().expect("whole files, whenever it looked");
    assert!(seen > 10, "{seen} states were seen");
}

async fn a_folder_that_is_swapped_for_a_link(door: Door) {
    let setup = Setup::new();
    prepare(&setup);
    let server = setup.start();
    let before = outside(&server);
    let client = server.through(door);

    let swapping = Swapping::start(&server.workspace());
    let began = Instant::now();
    let good = AtomicUsize::new(0);
    let note = |answer: Value| {
        assert!(!answer.to_string().contains("secret-name") && answer["content"] != SECRET, "{answer}");
        good.fetch_add(1, Ordering::Relaxed);
    };
    let work = async |number: usize| {
        while began.elapsed() < TIME {
            for path in ["top/swapped", "top/swapped/below", "top", ""] {
                let query = json!({"path": path, "recursive": true, "include_ignored": number.is_multiple_of(2)});
                let _ = client.list_files(query).await.map(|reply| note(reply.body));
            }
            for path in ["top/swapped/file", "top/swapped/below/file"] {
                let _ = client.read_file(path, json!({})).await.map(|reply| note(reply.body));
                let _ = client.write_file(path, json!({"content": "inside"})).await.map(|reply| note(reply.body));
                let raw = server.rest.get(&route("/raw", path)).await;
                assert_ne!(raw.body, SECRET.as_bytes());
            }
            let made = format!("top/swapped/new-{number}/x");
            let wish = json!({"content": "inside", "create_dirs": true});
            let _ = client.write_file(&made, wish).await.map(|reply| note(reply.body));
            let raw = server.rest.request("PUT", &route("/raw", format!("top/swapped/raw-{number}"))).body("inside");
            let _ = raw.send().await;
            for path in [format!("top/swapped/new-{number}"), format!("top/swapped/raw-{number}")] {
                let _ = client.delete_file(&path, json!({"recursive": true})).await;
            }
            let _ = client.delete_file("top/swapped/below/file", json!({})).await;
        }
    };
    futures_util::future::join_all((0..4).map(work)).await;
    let swaps = swapping.swaps.load(Ordering::Relaxed);
    drop(swapping);
    assert!(swaps > 100 && good.load(Ordering::Relaxed) > 20, "{swaps} swaps, {good:?} good answers");
    assert_eq!(outside(&server), before);
}
