//! Files listed and read, through every door.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{PermissionsExt, symlink},
    },
    path::PathBuf,
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
}

/// Writes a file of the workspace, folders and all.
pub fn put(server: &Server, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = server.workspace().join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, content).expect("a file");
    path
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
