//! Files written and deleted, through every door.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use serde_json::json;

use crate::{
    files::put,
    support::{Door, Setup, files::base64},
    through_every_door,
};

through_every_door! {
    files_are_written_whole;
    conditions_hold_for_every_verb;
    something_in_the_way;
    deleting;
    git_is_read_and_not_written;
    a_full_disk_leaves_the_old_content;
}

/// All names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

async fn files_are_written_whole(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    let at = |name: &str| server.workspace().join(name);
    let reply = client.write_file("new.txt", json!({"content": "één\n"})).await.expect("a file").body;
    assert_eq!((&reply["created"], &reply["file_info"]["size"]), (&json!(true), &json!(6)));
    let read = client.read_file("new.txt", json!({})).await.expect("a file").body;
    assert_eq!((&read["content"], &read["file_info"]), (&json!("één\n"), &reply["file_info"]));

    fs::set_permissions(at("new.txt"), fs::Permissions::from_mode(0o751)).expect("a mode");
    let wish = json!({"content": base64([0, 255]), "encoding": "base64"});
    let reply = client.write_file("new.txt", wish).await.expect("a file").body;
    assert_eq!((&reply["created"], &reply["file_info"]["mode"]), (&json!(false), &json!(0o751)), "the mode stays");
    assert_eq!(fs::read(at("new.txt")).expect("a file"), [0, 255]);

    let refused = client.write_file("far/off/x", json!({"content": ""})).await.expect_err("no folder");
    assert_eq!(refused.code, "not_found");
    assert!(refused.detail.contains("create_dirs"), "{}", refused.detail);
    let reply = client.write_file("far/off/x", json!({"content": "", "create_dirs": true})).await.expect("a file").body;
    assert_eq!((&reply["created"], &reply["file_info"]["size"]), (&json!(true), &json!(0)));

    symlink("new.txt", at("link")).expect("a link");
    symlink("not/there", at("dangling")).expect("a link");
    client.write_file("link", json!({"content": "through"})).await.expect("a file");
    assert_eq!(fs::read_to_string(at("new.txt")).expect("a file"), "through");
    assert!(at("link").is_symlink(), "the link stays");
    assert_eq!(client.write_file("dangling", json!({"content": ""})).await.expect_err("no folder").code, "not_found");

    let refused = client.write_file("x", json!({"content": "no!", "encoding": "base64"})).await.expect_err("no base64");
    assert_eq!((refused.code.as_str(), refused.fields), ("invalid_argument", vec!["content".to_owned()]));
    assert!(!at("x").exists());
    assert_eq!(
        names(&server.workspace()),
        [".git", "README.md", "dangling", "far", "link", "new.txt"],
        "nothing else is left"
    );
}

async fn conditions_hold_for_every_verb(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    let say = |content: &str, name: &str, value: &str| json!({"content": content, name: value});
    let made = client.write_file("f", say("one", "if_none_match", "*")).await.expect("it was not there").body;
    let one = made["file_info"]["etag"].as_str().expect("an etag").to_owned();
    for (name, value) in [
        ("if_none_match", "*".to_owned()),
        ("if_none_match", format!("\"x\", W/\"{one}\"")),
        ("if_match", "\"other\"".to_owned()),
        ("if_match", format!("W/\"{one}\"")),
    ] {
        for refused in [
            client.write_file("f", say("two", name, &value)).await.map(|_| ()),
            client.delete_file("f", json!({name: value})).await,
        ] {
            let refused = refused.expect_err("a condition that does not hold");
            assert_eq!(refused.code, "precondition_failed", "{name}: {value}");
            assert!(refused.detail.contains(&one), "it names the tag of now: {}", refused.detail);
        }
    }
    let refused = client.write_file("g/h", json!({"content": "", "if_match": "*", "create_dirs": true})).await;
    assert_eq!(refused.expect_err("there is none").code, "precondition_failed");
    assert!(!server.workspace().join("g").exists(), "nothing was made for it");
    assert_eq!(fs::read_to_string(server.workspace().join("f")).expect("a file"), "one");

    let known = json!({"not_modified": true});
    assert_eq!(client.read_file("f", json!({"if_none_match": format!("\"{one}\"")})).await.expect("304").body, known);
    assert_eq!(client.read_file("f", json!({"if_none_match": one})).await.expect("without quotes").body, known);
    assert_eq!(client.read_file("f", json!({"if_none_match": "\"x\""})).await.expect("a file").body["content"], "one");
    let refused = client.read_file("f", json!({"if_match": "\"x\""})).await.expect_err("another file");
    assert_eq!(refused.code, "precondition_failed");

    // As many clients as there are, one wins.
    let writes = (0..8).map(|number| client.write_file("f", json!({"content": number.to_string(), "if_match": one})));
    let done = futures_util::future::join_all(writes).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1, "{done:?}");
    let now = client.read_file("f", json!({})).await.expect("a file").body["file_info"]["etag"].clone();
    client.delete_file("f", json!({"if_match": now})).await.expect("it is the one");
    assert_eq!(client.delete_file("f", json!({"if_match": "*"})).await.expect_err("it is gone").code, "not_found");
}

async fn something_in_the_way(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    put(&server, "dir/file", "x");
    rustix::fs::mknodat(rustix::fs::CWD, server.workspace().join("pipe"), rustix::fs::FileType::Fifo, 0o644.into(), 0)
        .expect("a pipe");
    let write = async |path: &str| {
        let wish = json!({"content": "y", "create_dirs": true});
        client.write_file(path, wish).await.expect_err("something is in the way").code
    };
    assert_eq!(write("dir").await, "already_exists");
    assert_eq!(write("dir/file/below").await, "already_exists");
    assert_eq!(write("dir/file/below/deep").await, "already_exists");
    assert_eq!(write("pipe").await, "invalid_argument");
    let read = async |path: &str| client.read_file(path, json!({})).await.expect_err("no file").code;
    assert_eq!(read("dir").await, "invalid_argument");
    assert_eq!(read("pipe").await, "invalid_argument");
    assert_eq!(read("dir/file/below").await, "invalid_argument");
    assert_eq!(read("gone").await, "not_found");
    for (path, code) in [("dir/file", "invalid_argument"), ("gone", "not_found"), ("pipe", "invalid_argument")] {
        let refused = client.list_files(json!({"path": path})).await.expect_err("no folder");
        assert_eq!(refused.code, code, "{path}");
    }
    assert_eq!(fs::read_to_string(server.workspace().join("dir/file")).expect("a file"), "x");
}

async fn deleting(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    let at = |name: &str| server.workspace().join(name);
    for name in ["file", "target", "full/a/b/c", "full/d", "empty/x", "repos/deep/own/.git/HEAD"] {
        put(&server, name, "x");
    }
    fs::remove_file(at("empty/x")).expect("a file");
    symlink("target", at("link")).expect("a link");
    symlink("full", at("folder")).expect("a link");
    symlink("../..", at("full/a/up")).expect("a link");
    for path in ["file", "link", "empty", "folder"] {
        client.delete_file(path, json!({})).await.unwrap_or_else(|refused| panic!("{path}: {refused:?}"));
        assert!(!at(path).is_symlink() && !at(path).exists(), "{path}");
    }
    assert!(at("target").exists() && at("full/d").exists(), "a link is deleted, not what it leads to");
    assert_eq!(client.delete_file("full", json!({})).await.expect_err("not empty").code, "already_exists");
    client.delete_file("full", json!({"recursive": true})).await.expect("with all in it");
    assert!(!at("full").exists() && at("README.md").exists());
    for (path, wish, code) in [
        ("file", json!({}), "not_found"),
        ("repos", json!({"recursive": true}), "permission_denied"),
        ("repos/deep", json!({"recursive": true}), "permission_denied"),
        ("repos/deep/own/.git", json!({"recursive": true}), "permission_denied"),
        (".git", json!({"recursive": true}), "permission_denied"),
    ] {
        assert_eq!(client.delete_file(path, wish).await.expect_err("refused").code, code, "{path}");
    }
    assert!(at("repos/deep/own/.git/HEAD").exists());
    if door != Door::Rest {
        assert_eq!(
            client.delete_file("", json!({"recursive": true})).await.expect_err("refused").code,
            "permission_denied"
        );
    }
}

async fn git_is_read_and_not_written(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    put(&server, "tree/.git", "gitdir: ../elsewhere\n");
    symlink(".git", server.workspace().join("way")).expect("a link");
    symlink("../.git/config", server.workspace().join("tree/config")).expect("a link");
    let config = fs::read_to_string(server.workspace().join(".git/config")).expect("a file");
    assert_eq!(client.read_file(".git/config", json!({})).await.expect("reading is allowed").body["content"], *config);
    assert_eq!(client.read_file("way/config", json!({})).await.expect("also there").body["content"], *config);
    for path in
        [".git/config", ".GIT/config", "way/config", "tree/config", "way/hooks/new", "tree/.git", "x/.Git/y", ".git"]
    {
        let wish = json!({"content": "bad", "create_dirs": true});
        let refused = client.write_file(path, wish).await.expect_err("not there");
        assert_eq!(
            (refused.code.as_str(), refused.fields.as_slice()),
            ("permission_denied", ["path".to_owned()].as_slice()),
            "{path}"
        );
    }
    for path in [".git/config", "way/config", "tree/.git"] {
        assert_eq!(
            client.delete_file(path, json!({})).await.expect_err("not there").code,
            "permission_denied",
            "{path}"
        );
    }
    assert_eq!(fs::read_to_string(server.workspace().join(".git/config")).expect("a file"), config);
    assert!(!server.workspace().join("x").exists() && !server.workspace().join(".git/hooks/new").exists());
}

async fn a_full_disk_leaves_the_old_content(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    client.write_file("f", json!({"content": "old"})).await.expect("a file");
    server.limit_files(Some(4096));
    let refused = client.write_file("f", json!({"content": "x".repeat(8192)})).await.expect_err("a full disk");
    assert_eq!((refused.code.as_str(), refused.retryable), ("insufficient_storage", true));
    server.limit_files(None);
    assert_eq!(fs::read_to_string(server.workspace().join("f")).expect("a file"), "old");
    assert_eq!(names(&server.workspace()), [".git", "README.md", "f"], "and no temporary file");
}
