//! What a look cannot read: files and folders that are closed to the server, folders that lie too deep; and what it has
//! to read: names as long as they can be, paths longer than the system takes at once.

use std::{
    fs,
    io::Write,
    os::{fd::OwnedFd, unix::fs::PermissionsExt},
    path::Path,
};

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use serde_json::json;

use crate::{
    baselines::{plain, put},
    support::{Door, Value, files::route},
    through_every_door,
};

through_every_door! {
    what_is_closed_is_refused;
}

fn close(path: &Path, bits: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(bits)).expect("a mode");
}

async fn what_is_closed_is_refused(door: Door) {
    let setup = plain().without_rights();
    let workspace = setup.workspace();
    for name in ["closed.txt", "closed/a.txt", "names/a.txt", "fixed/a.txt", "above/closed/a.txt", "outer/names/a.txt"]
    {
        put(&workspace, name, "secret\n");
    }
    let server = setup.start();
    let client = server.through(door);
    for (name, bits) in [
        ("closed.txt", 0),
        ("closed", 0),
        ("names", 0o444),
        ("fixed", 0o555),
        ("above/closed", 0),
        ("outer/names", 0o444),
    ] {
        close(&workspace.join(name), bits);
    }
    let write = json!({"content": "new", "create_dirs": true});
    for refused in [
        client.read_file("closed.txt", json!({})).await.map(|_| ()),
        client.read_file("closed/a.txt", json!({})).await.map(|_| ()),
        client.read_file("names/a.txt", json!({})).await.map(|_| ()),
        client.list_files(json!({"path": "closed"})).await.map(|_| ()),
        client.list_files(json!({"path": "closed", "recursive": true})).await.map(|_| ()),
        // Whose names can be read, and nothing else of them.
        client.list_files(json!({"path": "names"})).await.map(|_| ()),
        client.write_file("closed/new/x", write.clone()).await.map(|_| ()),
        client.write_file("fixed/new", write.clone()).await.map(|_| ()),
        client.write_file("fixed/new/x", write.clone()).await.map(|_| ()),
        client.write_file("fixed/a.txt", write).await.map(|_| ()),
        client.delete_file("closed/a.txt", json!({})).await,
        client.delete_file("fixed/a.txt", json!({})).await,
        client.delete_file("fixed", json!({"recursive": true})).await,
        client.delete_file("above", json!({"recursive": true})).await,
        client.delete_file("outer", json!({"recursive": true})).await,
    ] {
        let refused = refused.expect_err("the file system refuses it");
        assert_eq!((refused.code.as_str(), refused.retryable), ("permission_denied", false), "{refused:?}");
        assert!(refused.detail.contains("does not permit"), "{refused:?}");
    }
    server.rest.get("/raw/closed.txt").await.problem(403, "permission_denied");
    // Further up they are shown, with nothing in them.
    let names = client.names(json!({"recursive": true})).await;
    assert_eq!(
        names,
        [
            "README.md",
            "above",
            "above/closed",
            "closed",
            "closed.txt",
            "fixed",
            "fixed/a.txt",
            "names",
            "outer",
            "outer/names"
        ]
    );
    for name in ["closed", "names", "fixed", "above/closed", "outer/names"] {
        close(&workspace.join(name), 0o755);
        assert_eq!(fs::read(workspace.join(name).join("a.txt")).expect("a file"), b"secret\n");
        assert_eq!(fs::read_dir(workspace.join(name)).expect("a folder").count(), 1);
    }
}

#[tokio::test]
async fn what_is_closed_is_unknown_until_it_is_open() {
    let setup = plain().without_rights();
    let workspace = setup.workspace();
    let inside = ["closed.txt", "closed/a.txt", "closed/deep/b.txt", "names/a.txt", "names/sub/b.txt", "never/a.txt"];
    for name in inside {
        put(&workspace, name, format!("{name}\n"));
    }
    put(&workspace, "open.txt", "1\n");
    // One that is closed from the beginning.
    close(&workspace.join("never"), 0);
    let server = setup.start();
    let first = server.version().await;
    let newest = server.newest_version().await;
    assert_eq!(newest["left_out"], json!([{"path": "never", "reason": "unreadable"}]));
    let folders = [("closed.txt", 0o000), ("closed", 0o000), ("names", 0o444)];
    for (name, bits) in folders {
        close(&workspace.join(name), bits);
    }
    put(&workspace, "open.txt", "2\n");
    let lacks: Vec<Value> = ["closed", "closed.txt", "names/a.txt", "names/sub", "never"]
        .map(|path| json!({"path": path, "reason": "unreadable"}))
        .to_vec();
    let body = server.rest.read(&format!("/files/changes?since_version={first}")).await;
    let told = body["changes"].as_array().expect("a list").iter().filter_map(|it| it["path"].as_str());
    assert_eq!(
        (told.collect(), &body["complete"], &body["left_out"]),
        (vec!["open.txt"], &json!(false), &json!(lacks))
    );
    let second = server.newest_version().await;
    assert_eq!((&second["partial"], &second["left_out"]), (&json!(true), &json!(lacks)));
    let done = server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!(done["changes"], json!([{"path": "open.txt", "type": "modified"}]));
    assert_eq!(done["skipped"], json!(lacks));

    for name in ["closed", "names", "never"] {
        close(&workspace.join(name), 0o755);
    }
    close(&workspace.join("closed.txt"), 0o644);
    for name in inside {
        assert_eq!(fs::read_to_string(workspace.join(name)).expect("a file"), format!("{name}\n"));
    }
    assert_eq!(server.newest_version().await["partial"], false);
    assert_eq!(server.changed_since(&first).await, [], "neither gone nor new");
    put(&workspace, "names/sub/b.txt", "2\n");
    put(&workspace, "never/a.txt", "2\n");
    assert_eq!(server.changed_since(&first).await, [("names/sub/b.txt".into(), "modified".into())]);
}

/// The workspace itself.
#[tokio::test]
async fn a_workspace_that_is_closed_is_unknown_as_a_whole() {
    let setup = plain().without_rights();
    let workspace = setup.workspace();
    let server = setup.start();
    let first = server.version().await;
    close(&workspace, 0o100);
    let body = server.rest.read(&format!("/files/changes?since_version={first}")).await;
    let all = json!([{"path": ".", "reason": "unreadable"}]);
    assert_eq!((&body["changes"], &body["complete"], &body["left_out"]), (&json!([]), &json!(false), &all));
    let done = server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!((&done["changes"], &done["skipped"]), (&json!([]), &all));
    close(&workspace, 0o755);
    assert_eq!(server.changed_since(&first).await, []);
    assert_eq!(server.newest_version().await["partial"], false);
}

/// Directories below each other that a look follows.
const MAX_DEPTH: usize = 512;

#[tokio::test]
async fn what_lies_too_deep_is_unknown() {
    let setup = plain();
    let workspace = setup.workspace();
    let deepest = vec!["d"; MAX_DEPTH].join("/");
    let (inside, outside) = (format!("{deepest}/in.txt"), format!("{deepest}/d/out.txt"));
    for name in [&inside, &outside] {
        put(&workspace, name, "1\n");
    }
    let server = setup.start();
    let first = server.version().await;
    let newest = server.newest_version().await;
    let lacks = json!([{"path": format!("{deepest}/d"), "reason": "too_deep"}]);
    assert_eq!((&newest["partial"], &newest["left_out"]), (&json!(true), &lacks));
    for name in [&inside, &outside] {
        put(&workspace, name, "2\n");
    }
    put(&workspace, &format!("{deepest}/d/new.txt"), "new\n");
    assert_eq!(server.changed_since(&first).await, [(inside.clone(), "modified".into())]);
    let done = server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!(done["changes"], json!([{"path": inside, "type": "modified"}]));
    assert_eq!(done["skipped"], lacks);
    assert_eq!(fs::read(workspace.join(&inside)).expect("a file"), b"1\n");
    assert_eq!(fs::read(workspace.join(&outside)).expect("a file"), b"2\n");
    // Less deep it is seen.
    fs::rename(workspace.join("d/d"), workspace.join("e")).expect("a folder");
    let moved = server.newest_version().await;
    assert_eq!(moved["partial"], false);
    put(&workspace, &format!("e/{}/out.txt", vec!["d"; MAX_DEPTH - 1].join("/")), "3\n");
    assert_eq!(server.changed_since(moved["id"].as_str().expect("an id")).await.len(), 1);
}

/// Opens folders below each other, name by name, which are made where they are missing.
fn reach(top: &Path, names: &[String]) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = openat(CWD, top, flags, Mode::empty()).expect("a folder");
    for name in names {
        let _ = mkdirat(&here, name, Mode::from_raw_mode(0o755));
        here = openat(&here, name, flags, Mode::empty()).expect("a folder");
    }
    here
}

fn write(above: &OwnedFd, name: &str, content: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = openat(above, name, flags, Mode::from_raw_mode(0o644)).expect("a file");
    fs::File::from(file).write_all(content.as_bytes()).expect("a content");
}

fn read(above: &OwnedFd, name: &str) -> String {
    let file = openat(above, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("a file");
    std::io::read_to_string(fs::File::from(file)).expect("a text")
}

#[tokio::test]
async fn names_and_paths_of_any_length_are_known() {
    let setup = plain();
    let workspace = setup.workspace();
    // Names as long as they can be, and a path over the 4,096 bytes that the system takes at once.
    let names: Vec<String> = (0..17).map(|number| char::from(b'a' + number).to_string().repeat(255)).collect();
    let longest = "n".repeat(255);
    let path = format!("{}/{longest}", names.join("/"));
    assert!(path.len() > 4096);
    let deep = reach(&workspace, &names);
    write(&deep, &longest, "1\n");
    let server = setup.start();
    let first = server.newest_version().await;
    assert_eq!((&first["partial"], first.get("left_out")), (&json!(false), None));
    let first = first["id"].as_str().expect("an id").to_owned();
    write(&deep, &longest, "2\n");
    write(&deep, "new", "new\n");
    let body = server.rest.read(&format!("/files/changes?since_version={first}")).await;
    let told: Vec<_> =
        body["changes"].as_array().expect("a list").iter().map(|it| (&it["path"], &it["type"])).collect();
    let new = format!("{}/new", names.join("/"));
    assert_eq!(told, [(&json!(new), &json!("created")), (&json!(path), &json!("modified"))]);
    assert_eq!((&body["changes"][1]["new_content"], &body["complete"]), (&json!("2\n"), &json!(true)));
    let done = server.rest.post("/files/revert", &json!({"version": first})).await.ok();
    assert_eq!((done["changes"].as_array().map(Vec::len), &done["skipped"]), (Some(2), &json!([])));
    assert_eq!(read(&deep, &longest), "1\n");

    // A list shows it, and says that no request can name it; a folder above can be deleted with it.
    let list = server.rest.read("/files?recursive=true").await;
    let files = list["files"].as_array().expect("a list");
    let info = files.iter().find(|file| file["path"] == path).expect("the file");
    assert_eq!((&info["addressable"], &info["size"]), (&json!(false), &json!(2)));
    let above = files.iter().find(|file| file["path"] == names[..8].join("/")).expect("a folder");
    assert_eq!(above["addressable"], true);
    server.rest.get(&route("/files", &path)).await.problem(400, "invalid_argument");
    let gone = server.rest.delete(&format!("{}?recursive=true", route("/files", &names[0]))).await;
    assert_eq!(gone.status, 204, "{}", gone.text());
    assert!(!workspace.join(&names[0]).exists());
    let changed = server.changed_since(&first).await;
    assert_eq!(changed, [(path, "deleted".into())]);
}
