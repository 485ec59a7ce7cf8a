//! A full disk and the versions of the workspace: who asks is told, nothing half written stays, and it goes on by itself
//! when there is room.

use std::{fs, path::Path};

use serde_json::{Value, json};

use crate::{
    baselines::{plain, put},
    changes::assert_same_as_git,
    support::{
        Door, Setup,
        edits::noise,
        repo::{bytes_of, git},
        until,
    },
    through_every_door,
};

through_every_door! {
    a_look_that_meets_a_full_disk_says_so;
    a_first_version_waits_for_room;
    a_write_that_has_no_room_leaves_nothing;
    nothing_is_written_that_cannot_be_told;
    what_finds_no_room_is_not_brought_back;
}

/// More than the log and its reserve have, and less than [`LARGE`].
const ROOM: u64 = 2 * 1024 * 1024;
/// What a version has no room for.
const LARGE: usize = 3 * 1024 * 1024;

/// Files of the versions that nobody has finished.
fn halves(setup: &Setup) -> Vec<String> {
    let all = bytes_of(&setup.data_dir().join("versions")).into_keys();
    let names = all.map(|path| path.file_name().expect("a name").to_string_lossy().into_owned());
    names.filter(|name| name.contains("tmp") || name.ends_with(".new") || name.ends_with(".lock")).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = entries.map(|name| name.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

async fn a_look_that_meets_a_full_disk_says_so(door: Door) {
    let setup = plain();
    let workspace = setup.workspace();
    let server = setup.start();
    let client = server.through(door);
    let first = server.version().await;
    let mut events = server.rest.stream("/events?types=files_changed").await;
    server.limit_files(Some(ROOM));
    put(&workspace, "large.bin", noise(1, LARGE));
    put(&workspace, "README.md", "# Other\n");
    let since = json!({"since_version": first});
    for refused in [
        client.get_file_changes(since.clone()).await.map(|_| ()),
        client.get_patch(since.clone()).await.map(|_| ()),
        // It would have to take a version first.
        client.revert_files(json!({"version": first})).await.map(|_| ()),
    ] {
        let refused = refused.expect_err("a full disk");
        assert_eq!((refused.code.as_str(), refused.retryable), ("insufficient_storage", true), "{refused:?}");
    }
    assert_eq!(halves(&setup), Vec::<String>::new(), "nothing half written stays");
    assert_eq!(fs::read(workspace.join("README.md")).expect("a file"), b"# Other\n", "nothing was touched");
    // What is there is read.
    assert_eq!(client.read_file("README.md", json!({})).await.expect("a file").body["content"], "# Other\n");
    assert_eq!(client.list_versions(json!({})).await.expect("versions").body["versions"][0]["id"], first);

    // Nobody has to ask again.
    server.limit_files(None);
    let told = events.next().await.json;
    let files = json!([{"path": "README.md", "type": "modified"}, {"path": "large.bin", "type": "created"}]);
    assert_eq!((&told["by"], &told["files"]), (&json!("outside"), &files));
    let body = client.get_file_changes(since).await.expect("changes").body;
    assert_eq!((body["changes"].as_array().map(Vec::len), &body["left_out"]), (Some(2), &json!([])));
    assert_same_as_git(&server, &server.newest_version().await, "with room again");
    client.revert_files(json!({"version": first})).await.expect("room");
    assert_eq!(names(&workspace), ["README.md"]);
    assert_eq!(fs::read(workspace.join("README.md")).expect("a file"), b"# A project\n");
}

async fn a_first_version_waits_for_room(door: Door) {
    let setup = plain();
    let workspace = setup.workspace();
    put(&workspace, "large.bin", noise(2, LARGE));
    let server = setup.limit_files(ROOM).start();
    let client = server.through(door);
    for _ in 0..2 {
        let refused = client.get_file_changes(json!({})).await.expect_err("a full disk");
        assert_eq!((refused.code.as_str(), refused.retryable), ("insufficient_storage", true), "{refused:?}");
    }
    // A write does not become the first version, which would have nothing but that in it.
    client.write_file("new.txt", json!({"content": "new\n"})).await.expect("room for this");
    assert_eq!(client.list_versions(json!({})).await.expect("versions").body["versions"], json!([]));
    assert_eq!(halves(&setup), Vec::<String>::new());

    server.limit_files(None);
    let version = server.version_by("baseline").await;
    assert_eq!((&version["id"], &version["partial"]), (&json!("v1"), &json!(false)));
    assert_same_as_git(&server, &version, "with room at last");
    let body = client.get_file_changes(json!({})).await.expect("changes").body;
    assert_eq!((&body["since_version"], &body["changes"]), (&json!("v1"), &json!([])));
    put(&workspace, "large.bin", "small\n");
    client.revert_files(json!({"version": "v1"})).await.expect("room");
    assert_eq!(fs::read(workspace.join("large.bin")).expect("a file"), noise(2, LARGE));
}

async fn a_write_that_has_no_room_leaves_nothing(door: Door) {
    let server = plain().start();
    let client = server.through(door);
    let workspace = server.workspace();
    client.write_file("f", json!({"content": "old"})).await.expect("a file");
    let first = server.version().await;
    server.limit_files(Some(ROOM));
    let wish = json!({"content": "x".repeat(ROOM as usize + 1), "create_dirs": true});
    for path in ["f", "new/deep/g"] {
        let refused = client.write_file(path, wish.clone()).await.expect_err("a full disk");
        assert_eq!((refused.code.as_str(), refused.retryable), ("insufficient_storage", true), "{refused:?}");
    }
    let raw = server.rest.request("PUT", "/raw/new/deep/h?create_dirs=true").body(vec![0; ROOM as usize + 1]);
    crate::support::Answer::of(raw).await.problem(507, "insufficient_storage");
    assert_eq!(fs::read(workspace.join("f")).expect("a file"), b"old");
    assert_eq!(names(&workspace), ["README.md", "f"], "and no folder that was made for it");

    // There is room for the file, but not for its content once more: its version comes by itself when there is.
    let mut events = server.rest.stream("/events?types=files_changed").await;
    let exact = server.rest.request("PUT", "/raw/g").body(noise(3, ROOM as usize));
    assert_eq!(crate::support::Answer::of(exact).await.status, 201);
    assert_eq!(server.rest.read("/files/versions?limit=1").await["versions"][0]["id"], first);
    server.limit_files(None);
    let told = events.next().await.json;
    assert_eq!(told["files"], json!([{"path": "g", "type": "created"}]));
    assert_eq!(server.changed_since(&first).await, [("g".into(), "created".into())]);
}

/// While the log takes no event, no client changes a file: nobody would be told of it.
async fn nothing_is_written_that_cannot_be_told(door: Door) {
    let server = plain().start();
    let client = server.through(door);
    let workspace = server.workspace();
    client.write_file("f", json!({"content": "old"})).await.expect("a file");
    let first = server.version().await;
    server.limit_files(Some(4096));
    // The first one to find out.
    assert_eq!(client.reset_session(json!({})).await.expect_err("a full disk").code, "insufficient_storage");
    for refused in [
        client.write_file("f", json!({"content": "new"})).await.map(|_| ()),
        client.write_file("g", json!({"content": "new"})).await.map(|_| ()),
        client.delete_file("f", json!({})).await,
        client.revert_files(json!({"version": first})).await.map(|_| ()),
    ] {
        let refused = refused.expect_err("a full disk");
        assert_eq!((refused.code.as_str(), refused.retryable), ("insufficient_storage", true), "{refused:?}");
    }
    for (method, path) in [("PUT", "/raw/f"), ("PUT", "/raw/g"), ("DELETE", "/raw/f")] {
        let request = server.rest.request(method, path).body("new");
        crate::support::Answer::of(request).await.problem(507, "insufficient_storage");
    }
    assert_eq!(
        (names(&workspace), fs::read(workspace.join("f")).expect("a file")),
        (vec!["README.md".into(), "f".into()], b"old".to_vec())
    );
    assert_eq!(client.read_file("f", json!({})).await.expect("a file").body["content"], "old");

    server.limit_files(None);
    until("room", async || client.write_file("f", json!({"content": "new"})).await.ok()).await;
    assert_eq!(server.changed_since(&first).await, [("f".into(), "modified".into())]);
}

async fn what_finds_no_room_is_not_brought_back(door: Door) {
    let setup = plain();
    let workspace = setup.workspace();
    // A version has room for so many equal letters.
    put(&workspace, "large.txt", "x".repeat(LARGE));
    put(&workspace, "small.txt", "1\n");
    let server = setup.start();
    let client = server.through(door);
    let first = server.version().await;
    put(&workspace, "large.txt", "other\n");
    put(&workspace, "small.txt", "2\n");
    put(&workspace, "new.txt", "new\n");
    let second = server.version().await;
    server.limit_files(Some(ROOM));
    let done = client.revert_files(json!({"version": first})).await.expect("an answer").body;
    let changes = json!([{"path": "new.txt", "type": "deleted"}, {"path": "small.txt", "type": "modified"}]);
    assert_eq!(done["skipped"], json!([{"path": "large.txt", "reason": "no_room"}]));
    assert_eq!((&done["changes"], &done["version_before"]), (&changes, &json!(second)));
    assert_eq!(names(&workspace), ["README.md", "large.txt", "small.txt"], "nothing half written stays");
    assert_eq!(fs::read(workspace.join("large.txt")).expect("a file"), b"other\n");
    server.limit_files(None);
    let done = client.revert_files(json!({"version": first})).await.expect("an answer").body;
    assert_eq!((&done["skipped"], done["changes"].as_array().map(Vec::len)), (&json!([]), Some(1)));
    assert_eq!(server.changed_since(&first).await, []);
}

/// What git tracks although a rule ignores it is known by a copy of the index, which may find no room.
#[tokio::test]
async fn an_index_that_finds_no_room_is_read_again() {
    let setup = Setup::new();
    let workspace = setup.workspace();
    for number in 0..200 {
        put(&workspace, &format!("many/{number}.txt"), "x\n");
    }
    put(&workspace, ".gitignore", "*.log\n");
    put(&workspace, "kept.log", "1\n");
    git(&workspace, &["add", "-A"]);
    git(&workspace, &["add", "-f", "kept.log"]);
    assert!(fs::metadata(workspace.join(".git/index")).expect("a file").len() > 8192);
    let server = setup.start();
    let first = server.version().await;
    server.limit_files(Some(8192));
    // What is known of so many files finds no room, and the log none for the version.
    put(&workspace, "more.txt", "x\n");
    server.rest.get("/files/changes").await.problem(507, "insufficient_storage");
    assert_eq!(halves(&setup), Vec::<String>::new());
    git(&workspace, &["add", "more.txt"]);
    put(&workspace, "kept.log", "2\n");
    let answer: Value = server.rest.get("/files/changes").await.problem(507, "insufficient_storage");
    assert_eq!(answer["retryable"], true);
    assert!(!setup.data_dir().join("versions/index").exists(), "no half of a copy");
    assert_eq!(halves(&setup), Vec::<String>::new());
    server.limit_files(None);
    let changed = until("changes", async || {
        let answer = server.rest.get(&format!("/files/changes?since_version={first}")).await;
        (answer.status == 200).then(|| answer.ok())
    })
    .await;
    let told = changed["changes"].as_array().expect("a list").iter().filter_map(|it| it["path"].as_str());
    assert_eq!((told.collect(), &changed["complete"]), (vec!["kept.log", "more.txt"], &json!(true)), "{changed}");
}
