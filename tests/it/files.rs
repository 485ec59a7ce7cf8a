//! Files listed, read, written and deleted, through every door.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use crate::{
    support::{Door, Server, Setup, files::base64},
    through_every_door,
};

through_every_door! {
    a_list_tells_what_is_there;
    recursive_lists_are_in_byte_order_without_what_git_ignores;
    globs_and_hidden_names;
    pages_hold_every_file_once;
    a_file_is_read_whole_and_in_pieces;
    what_is_no_text_is_base64;
    an_answer_has_a_limit;
    files_are_written_whole;
    conditions_hold_for_every_verb;
    something_in_the_way;
    deleting;
    git_is_read_and_not_written;
    a_full_disk_leaves_the_old_content;
}

fn put(server: &Server, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = server.workspace().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, content).expect("a file");
    path
}

/// All names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

async fn a_list_tells_what_is_there(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    let script = put(&server, "run.sh", "#!/bin/sh\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o750)).expect("a mode");
    fs::create_dir(server.workspace().join("src")).expect("a folder");
    symlink("src", server.workspace().join("link")).expect("a link");
    let odd = server.workspace().join(std::ffi::OsStr::from_bytes(b"odd\xff"));
    fs::write(odd, "x").expect("a file");

    let reply = client.list_files(json!({})).await.expect("a list");
    assert_eq!(reply.cursor.as_deref(), reply.body["as_of"].as_str());
    assert_eq!(reply.body["pagination"], json!({"total": 0, "limit": 10000, "offset": 0, "has_more": false}));
    let files = reply.body["files"].as_array().expect("files");
    let named = |name: &str| files.iter().find(|file| file["path"] == name).unwrap_or_else(|| panic!("no {name}"));
    let mut expected = json!({"path": "run.sh", "is_directory": false, "size": 10, "mime_type": "application/x-sh",
        "mode": 0o750, "addressable": true});
    expected["modified_at"] = named("run.sh")["modified_at"].clone();
    assert_eq!(*named("run.sh"), expected);
    expected = json!({"path": "src", "is_directory": true, "size": 0, "addressable": true});
    for field in ["modified_at", "mode"] {
        expected[field] = named("src")[field].clone();
    }
    assert_eq!(*named("src"), expected);
    assert_eq!(named("link")["symlink_target"], "src");
    assert_eq!((&named("link")["is_directory"], &named("link")["mime_type"]), (&json!(false), &json!("inode/symlink")));
    assert_eq!(named("odd\u{fffd}")["addressable"], false);
    assert_eq!(named(".git")["is_directory"], true, "a list that is not recursive shows all");
    put(&server, "src/a.rs", "");
    assert_eq!(client.names(json!({"path": "link"})).await, ["link/a.rs"], "a link inside leads to what is there");
}

async fn recursive_lists_are_in_byte_order_without_what_git_ignores(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    for name in [
        "a/b/c",
        "a/z",
        "a-b",
        "a.b",
        "a0",
        "build/out",
        "deep/x.log",
        "deep/keep/y.log",
        "deep/keep/z.log",
        ".hidden/f",
        "never/nested/of/build/f",
        "repo/.git/HEAD",
        "repo/y.log",
        "secret.txt",
    ] {
        put(&server, name, "x");
    }
    put(&server, ".gitignore", "*.log\n/build/\n");
    // The negation of what only an outer file names.
    put(&server, "deep/keep/.gitignore", "!y.log\n");
    put(&server, ".git/info/exclude", "secret.txt\n");
    let all = client.names(json!({"recursive": true})).await;
    let expected = [
        ".gitignore",
        ".hidden",
        ".hidden/f",
        "README.md",
        "a",
        "a-b",
        "a.b",
        "a/b",
        "a/b/c",
        "a/z",
        "a0",
        "deep",
        "deep/keep",
        "deep/keep/.gitignore",
        "deep/keep/y.log",
        "never",
        "never/nested",
        "never/nested/of",
        "never/nested/of/build",
        "never/nested/of/build/f",
        "repo",
        "repo/y.log",
    ];
    assert_eq!(all, expected);
    let every = client.names(json!({"recursive": true, "include_ignored": true})).await;
    let more: Vec<_> = every.iter().filter(|name| !all.contains(name)).collect();
    assert_eq!(more, ["build", "build/out", "deep/keep/z.log", "deep/x.log", "secret.txt"], "and no .git");
    let below = client.names(json!({"recursive": true, "path": "deep/keep"})).await;
    assert_eq!(below, ["deep/keep/.gitignore", "deep/keep/y.log"], "rules from above hold there too");
    assert_eq!(client.names(json!({"recursive": true, "path": "build"})).await, ["build/out"], "it was asked for");
    let git = client.names(json!({"recursive": true, "path": ".git"})).await;
    assert!(git.contains(&".git/HEAD".to_owned()), "reading .git is allowed: {git:?}");
}

async fn globs_and_hidden_names(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    for name in ["src/a.rs", "src/deep/b.rs", "src/c.toml", ".x/d.rs", "docs/e.md"] {
        put(&server, name, "x");
    }
    let list = async |query: Value| {
        let mut query = query;
        query["recursive"] = true.into();
        client.names(query).await
    };
    assert_eq!(list(json!({"patterns": ["*.rs"]})).await, [".x/d.rs", "src/a.rs", "src/deep/b.rs"]);
    assert_eq!(list(json!({"patterns": ["src/*.rs", "*.md"]})).await, ["README.md", "docs/e.md", "src/a.rs"]);
    assert_eq!(list(json!({"patterns": ["*.rs"], "exclude_hidden": true})).await, ["src/a.rs", "src/deep/b.rs"]);
    assert_eq!(list(json!({"patterns": ["*.rs"], "exclude_patterns": ["deep", ".x/**"]})).await, ["src/a.rs"]);
    assert_eq!(list(json!({"path": "src", "patterns": ["src/*.rs"]})).await, ["src/a.rs"], "relative to the workspace");
    for (query, field) in [
        (json!({"patterns": ["{a"]}), "patterns"),
        (json!({"exclude_patterns": [""]}), "exclude_patterns"),
        (json!({"patterns": vec!["a"; 101]}), "patterns"),
        (json!({"limit": -1}), "limit"),
        (json!({"limit": 10_001}), "limit"),
        (json!({"offset": 1}), "offset"),
    ] {
        let refused = client.list_files(query.clone()).await.expect_err("a bad query");
        assert_eq!(
            (refused.code.as_str(), refused.fields.as_slice()),
            ("invalid_argument", [field.to_owned()].as_slice()),
            "{query}"
        );
    }
}

async fn pages_hold_every_file_once(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    for folder in ["", "a/", "a/b/", "a-b/", "c/d/e/"] {
        for number in 0..9 {
            put(&server, &format!("{folder}{number}"), "x");
        }
    }
    let odd = server.workspace().join(std::ffi::OsStr::from_bytes(b"a/\xff\xfe"));
    fs::write(odd, "x").expect("a file");
    for recursive in [true, false] {
        let all = client.names(json!({"recursive": recursive})).await;
        for limit in [1, 2, 7, 50] {
            let (mut found, mut cursor) = (Vec::new(), json!(""));
            loop {
                let query = json!({"recursive": recursive, "limit": limit, "cursor": cursor});
                let body = client.list_files(query).await.expect("a page").body;
                let files = body["files"].as_array().expect("files");
                assert!(files.len() <= limit);
                found.extend(files.iter().map(|file| file["path"].as_str().expect("a path").to_owned()));
                let page = &body["pagination"];
                assert_eq!(
                    (&page["limit"], page["has_more"] == true),
                    (&json!(limit), page["next_cursor"].is_string())
                );
                if page["has_more"] == false {
                    break;
                }
                cursor = page["next_cursor"].clone();
            }
            assert_eq!(found, all, "pages of {limit}");
        }
    }
    let page = client.list_files(json!({"recursive": true, "limit": 3})).await.expect("a page").body;
    let cursor = &page["pagination"]["next_cursor"];
    for query in
        [json!({"cursor": cursor}), json!({"cursor": "nonsense", "recursive": true}), json!({"cursor": "m1a-5"})]
    {
        let refused = client.list_files(query.clone()).await.expect_err("a foreign cursor");
        assert_eq!(refused.fields, ["cursor"], "{query}");
    }
    // The files before it may be gone by then.
    fs::remove_dir_all(server.workspace().join("a")).expect("a folder");
    let rest = client.names(json!({"recursive": true, "limit": 3, "cursor": cursor})).await;
    assert_eq!(rest.len(), 3);
}

async fn a_file_is_read_whole_and_in_pieces(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    put(&server, "dir/text.md", "äbc\n");
    let whole = client.read_file("dir/text.md", json!({})).await.expect("a file").body;
    let etag = whole["file_info"]["etag"].as_str().expect("an etag").to_owned();
    assert_eq!(etag.len(), 32);
    let info = json!({"path": "dir/text.md", "is_directory": false, "size": 5, "mime_type": "text/markdown",
        "mode": 0o644, "addressable": true, "etag": etag, "modified_at": whole["file_info"]["modified_at"]});
    assert_eq!(whole, json!({"content": "äbc\n", "encoding": "utf-8", "file_info": info}));

    let piece = async |offset: i64, length: Value| {
        let mut wish = json!({"offset": offset});
        if !length.is_null() {
            wish["length"] = length;
        }
        let body = client.read_file("dir/text.md", wish).await.expect("a piece").body;
        assert_eq!(body["file_info"], info, "of the whole file");
        (body["content"].as_str().expect("content").to_owned(), body["encoding"].as_str().expect("one").to_owned())
    };
    assert_eq!(piece(2, json!(2)).await, ("bc".into(), "utf-8".into()));
    assert_eq!(piece(2, Value::Null).await, ("bc\n".into(), "utf-8".into()));
    assert_eq!(piece(0, json!(1)).await, (base64([0xc3]), "base64".into()), "half a character");
    assert_eq!(piece(5, json!(100)).await, (String::new(), "utf-8".into()));
    assert_eq!(piece(1, json!(0)).await, (String::new(), "utf-8".into()));

    for (wish, code, field) in [
        (json!({"offset": 6}), "range_not_satisfiable", ""),
        (json!({"offset": -1}), "invalid_argument", "offset"),
        (json!({"length": -1}), "invalid_argument", "length"),
        (json!({"length": 1, "encoding": "utf-8"}), "invalid_argument", "encoding"),
        (json!({"encoding": "latin-1"}), "invalid_argument", "encoding"),
        (json!({"if_match": "\"a"}), "invalid_argument", "if_match"),
    ] {
        let refused = client.read_file("dir/text.md", wish.clone()).await.expect_err("a bad wish");
        assert_eq!((refused.code.as_str(), refused.fields.first().map_or("", String::as_str)), (code, field), "{wish}");
    }
}

async fn what_is_no_text_is_base64(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    put(&server, "image.txt", b"\x89PNG\r\n\x1a\n\xff");
    let body = client.read_file("image.txt", json!({})).await.expect("a file").body;
    assert_eq!((&body["content"], &body["encoding"]), (&json!(base64(b"\x89PNG\r\n\x1a\n\xff")), &json!("base64")));
    assert_eq!(body["file_info"]["mime_type"], "image/png", "by content when one file is read");
    let asked = client.read_file("README.md", json!({"encoding": "base64"})).await.expect("a file").body;
    assert_eq!((&asked["content"], &asked["encoding"]), (&json!(base64("# A project\n")), &json!("base64")));
    put(&server, "nul.bin", "a\0b");
    let nul = client.read_file("nul.bin", json!({})).await.expect("a file").body;
    assert_eq!((&nul["content"], &nul["encoding"]), (&json!("a\0b"), &json!("utf-8")));
    put(&server, "empty", "");
    assert_eq!(client.read_file("empty", json!({})).await.expect("a file").body["content"], "");
}

async fn an_answer_has_a_limit(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    put(&server, "large.txt", vec![b'a'; 4 * 1024 * 1024]);
    put(&server, "quotes.txt", vec![b'"'; 2 * 1024 * 1024]);
    for path in ["large.txt", "quotes.txt"] {
        let refused = client.read_file(path, json!({})).await.expect_err("too large");
        assert_eq!(refused.code, "too_large");
        assert!(["offset", "/raw"].iter().all(|way| refused.detail.contains(way)), "{}", refused.detail);
    }
    let half = client.read_file("large.txt", json!({"offset": 3 * 1024 * 1024})).await.expect("a piece").body;
    assert_eq!(half["content"].as_str().map(str::len), Some(1024 * 1024));
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
