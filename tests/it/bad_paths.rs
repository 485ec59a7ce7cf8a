//! Bad paths as they stand on the wire, and what is no file: every route and every door refuses them alike.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    os::unix::net::UnixListener,
    time::Duration,
};

use rustix::fs::{CWD, FileType, mknodat};
use serde_json::{Value, json};

use crate::{
    files::put,
    support::{Door, Server, Setup, files::route},
    through_every_door,
};

through_every_door! {
    what_is_no_regular_file_is_refused;
}

/// Sends a request exactly so, and answers its status and its body.
fn by_hand(server: &Server, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(server.rest.base.trim_start_matches("http://")).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// No client tidies these up: they come as they are.
#[tokio::test]
async fn paths_as_they_stand_on_the_wire() {
    let setup = Setup::new();
    fs::create_dir(setup.folder("outside")).expect("a folder");
    fs::write(setup.folder("outside/secret.txt"), "secret").expect("a file");
    let server = setup.start();
    put(&server, "dir/file", "x");
    let long = "x".repeat(5000);
    let deep = "x/".repeat(2500) + "x";
    let outside = (403, "permission_denied");
    let bad = (400, "invalid_argument");
    let body = json!({"content": "bad", "create_dirs": true}).to_string();
    for (path, (status, code)) in [
        ("..", outside),
        ("../outside/secret.txt", outside),
        ("dir/../../outside/secret.txt", outside),
        ("dir/..", outside),
        ("%2e%2e/outside/secret.txt", outside),
        ("%2E%2e/%2e%2E/etc/passwd", outside),
        ("dir/%2e%2e/%2e%2e/outside/secret.txt", outside),
        ("%2e%2e%2foutside%2fsecret.txt", outside),
        (".%2e/outside/secret.txt", outside),
        ("/etc/passwd", outside),
        ("//etc/passwd", outside),
        ("%2fetc%2fpasswd", outside),
        ("%2f%2fetc%2fpasswd", outside),
        ("dir//file", bad),
        ("dir%2f%2ffile", bad),
        ("dir/./file", bad),
        ("%2e/dir/file", bad),
        (".", bad),
        ("%00", bad),
        ("dir/file%00", bad),
        ("dir/file%00.txt", bad),
        ("dir/", bad),
        ("dir/file/", bad),
        ("dir/file%2f", bad),
        (&long, bad),
        (&deep, bad),
    ] {
        for (method, route) in [
            ("GET", "/files/"),
            ("PUT", "/files/"),
            ("DELETE", "/files/"),
            ("GET", "/raw/"),
            ("HEAD", "/raw/"),
            ("PUT", "/raw/"),
            ("DELETE", "/raw/"),
        ] {
            let body = if method == "PUT" { body.as_str() } else { "" };
            let query = if method == "DELETE" { "?recursive=true" } else { "" };
            let (found, answer) = by_hand(
                &server,
                &format!(
                    "{method} {route}{path}{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                ),
            );
            let what = format!("{method} {route}{path:.60}");
            // To delete the workspace by any name is not permitted.
            let expected = if (method, path) == ("DELETE", ".") { 403 } else { status };
            assert_eq!(found, expected, "{what}: {answer}");
            if method == "HEAD" {
                assert_eq!(answer, "");
                continue;
            }
            let problem: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{what}: {answer}"));
            let expected = if expected == status { code } else { "permission_denied" };
            assert_eq!(problem["code"], expected, "{what}");
            assert!(!answer.contains("secret\"") && !answer.contains("opencode-it-"), "{what}: {answer}");
            if expected == code {
                assert_eq!(problem["errors"][0]["field"], "path", "{what}");
            }
        }
    }
    // Nothing at all is no file either.
    for (request, status) in [("GET /raw/", 404), ("PUT /raw/", 404), ("PUT /files/", 405), ("DELETE /files/", 405)] {
        let head = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        let (found, answer) = by_hand(&server, &head);
        assert_eq!(found, status, "{request}: {answer}");
    }
    assert_eq!(fs::read(setup.folder("outside/secret.txt")).expect("a file"), b"secret");
    assert_eq!(fs::read(server.workspace().join("dir/file")).expect("a file"), b"x");
}

async fn what_is_no_regular_file_is_refused(door: Door) {
    let server = Setup::new().start();
    let client = server.through(door);
    let at = |name: &str| server.workspace().join(name);
    put(&server, "plain", "x");
    mknodat(CWD, at("pipe"), FileType::Fifo, 0o644.into(), 0).expect("a pipe");
    let _socket = UnixListener::bind(at("socket")).expect("a socket");
    let mut names = vec!["pipe", "socket"];
    // Only root makes devices: the null device, and one that never ends.
    for (name, number) in [("null", 3), ("zero", 5)] {
        if mknodat(CWD, at(name), FileType::CharacterDevice, 0o666.into(), rustix::fs::makedev(1, number)).is_ok() {
            names.push(name);
        }
    }
    for name in names {
        // By itself, and through a link.
        let link = format!("link to {name}");
        std::os::unix::fs::symlink(name, at(&link)).expect("a link");
        for path in [name, &link] {
            let write = json!({"content": "new"});
            for refused in [
                client.read_file(path, json!({})).await.map(|_| ()),
                client.read_file(path, json!({"offset": 0, "length": 1})).await.map(|_| ()),
                client.write_file(path, write.clone()).await.map(|_| ()),
                client.list_files(json!({"path": path})).await.map(|_| ()),
            ] {
                let refused = refused.expect_err("it is no file");
                let told = (refused.code.as_str(), refused.fields.as_slice());
                assert_eq!(told, ("invalid_argument", ["path".to_owned()].as_slice()), "{path}: {refused:?}");
            }
            for method in ["GET", "PUT"] {
                let request = server.rest.request(method, &route("/raw", path)).body("");
                crate::support::Answer::of(request).await.problem(400, "invalid_argument");
            }
            let below = client.read_file(&format!("{path}/x"), json!({})).await.expect_err("no folder");
            assert_eq!(below.code, "invalid_argument");
        }
        let kind = fs::symlink_metadata(at(name)).expect("it is there").file_type();
        assert!(!kind.is_file() && !kind.is_dir() && !kind.is_symlink(), "{name} is what it was");
    }
    // In no version, and in nobody's way: a list shows what they are.
    let listed = client.list_files(json!({"recursive": true, "patterns": ["pipe", "socket"]})).await.expect("a list");
    let types: Vec<_> = listed.body["files"].as_array().expect("files").iter().map(|it| &it["mime_type"]).collect();
    assert_eq!(types, ["inode/fifo", "inode/socket"]);
    let body = client.get_file_changes(json!({"since_version": "git:HEAD"})).await.expect("changes").body;
    let changed = body["changes"].as_array().expect("a list").iter();
    assert!(
        changed
            .clone()
            .all(|change| change["path"].as_str().is_some_and(|path| path == "plain" || path.starts_with("link")))
    );
    assert_eq!(body["complete"], true);
    for name in ["pipe", "socket"] {
        client.delete_file(name, json!({})).await.expect("its name can be taken away");
        assert!(fs::symlink_metadata(at(name)).is_err());
    }
}
