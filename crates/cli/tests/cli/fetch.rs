//! `tesseral fetch`, from a server on this machine and from a wheel.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use crate::common::{Sandbox, example, json_lines, transcript};

const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/reference/checkpoints/MACE_SPICE.model");

/// Answers every request with `body`; returns the address of a file.
fn serve(body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0u8; 4096];
            let _ = stream.read(&mut request);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        }
    });
    format!("http://{address}/checkpoint.model")
}

fn manifest(sandbox: &Sandbox, url: &str, rest: &str) {
    let text = format!(
        "[licences.MIT]\nname = \"MIT License\"\nurl = \"https://opensource.org/license/mit\"\n\
         [licences.ASL]\nname = \"Academic\"\nurl = \"https://x\"\nforbids = \"commerce\"\n\
         [[models]]\nname = \"test-model\"\nfamily = \"MACE\"\nsummary = \"a test\"\ntraining = \"none\"\n\
         reference = \"none\"\nurl = \"{url}\"\n{rest}\n"
    );
    sandbox.file("manifest.toml", text);
}

fn fetch(sandbox: &Sandbox, args: &[&str]) -> String {
    let mut command = sandbox.tesseral(args);
    command.env("TESSERAL_MANIFEST", sandbox.path("manifest.toml"));
    transcript(command)
}

/// Files in the cache, the temporary ones too.
fn cached(sandbox: &Sandbox) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(sandbox.path("cache/models")) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn from_a_server() {
    if !Path::new(CHECKPOINT).exists() {
        eprintln!("skipped because {CHECKPOINT} is not there");
        return;
    }
    let sandbox = Sandbox::new();
    let body = std::fs::read(CHECKPOINT).unwrap();
    manifest(&sandbox, &serve(body.clone()), "licence = \"ASL\"");
    let text = fetch(&sandbox, &["fetch", "test-model"]);
    assert!(text.starts_with("exit code 0"), "{text}");
    assert!(text.contains("cache/models/test-model.safetensors\n"), "{text}");
    assert!(text.contains("forbids commerce"), "{text}");
    assert!(text.contains("is not known beforehand"), "{text}");
    assert_eq!(cached(&sandbox), ["test-model.safetensors", "test-model.toml"]);
    let info = fetch(&sandbox, &["info", "test-model", "--json"]);
    assert!(
        info.contains("\"name\":\"test-model\"") && info.contains("\"licence\":\"ASL\"") && info.contains("http://127.0.0.1"),
        "{info}"
    );
    assert!(fetch(&sandbox, &["evaluate", &example("ethanol.extxyz"), "-m", "Test_Model"]).starts_with("exit code 0"));
    // Installed already: nothing to do, the same answer.
    manifest(&sandbox, "http://127.0.0.1:9/gone", "licence = \"MIT\"");
    assert!(fetch(&sandbox, &["fetch", "test-model"]).starts_with("exit code 0"));
    // Another file under the same name is refused, because the first one is on record.
    let mut changed = body;
    changed.push(0);
    manifest(&sandbox, &serve(changed), "licence = \"MIT\"");
    let text = fetch(&sandbox, &["fetch", "test-model", "--force"]);
    assert!(text.starts_with("exit code 1") && text.contains("has changed") && text.contains("hint: "), "{text}");
    assert_eq!(cached(&sandbox), ["test-model.safetensors", "test-model.toml"]);
}

#[test]
fn wrong_or_unreadable_files_are_not_installed() {
    let sandbox = Sandbox::new();
    let url = serve(b"<html>not a model</html>".to_vec());
    manifest(&sandbox, &url, &format!("licence = \"MIT\"\nsha256 = \"{}\"", "0".repeat(64)));
    let text = fetch(&sandbox, &["fetch", "test-model"]);
    assert!(text.starts_with("exit code 1") && text.contains("its SHA-256 is") && text.contains("hint: "), "{text}");
    manifest(&sandbox, &url, "licence = \"MIT\"");
    let text = fetch(&sandbox, &["fetch", "test-model"]);
    assert!(text.starts_with("exit code 1") && text.contains("cannot import `test-model`"), "{text}");
    manifest(&sandbox, &url, "licence = \"MIT\"\nbytes = 5");
    let text = fetch(&sandbox, &["fetch", "test-model"]);
    assert!(text.starts_with("exit code 1") && text.contains("larger than 5 bytes"), "{text}");
    assert_eq!(cached(&sandbox), [""; 0]);
}

#[test]
fn without_a_network() {
    let sandbox = Sandbox::new();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    manifest(&sandbox, &format!("http://127.0.0.1:{port}/a.model"), "licence = \"MIT\"");
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(&format!(":{port}"), ":[port]");
    settings.add_filter(&regex_escape(sandbox.path("").to_str().unwrap()), "[folder]/");
    settings.bind(|| insta::assert_snapshot!(fetch(&sandbox, &["fetch", "test-model"]), @r#"
    exit code 1
    ---- stdout ----
    ---- stderr ----
    error: cannot fetch `test-model`
      caused by: cannot download http://127.0.0.1:[port]/a.model
      caused by: io: Connection refused (os error 111)
    hint: without a network, download http://127.0.0.1:[port]/a.model on another machine and run `tesseral import a.model --name test-model -o '[folder]/cache/models/test-model.safetensors'`
    "#));
    insta::assert_snapshot!(fetch(&sandbox, &["fetch", "tset-model"]), @r#"
    exit code 1
    ---- stdout ----
    ---- stderr ----
    error: no known model is called `tset-model`
    hint: did you mean `test-model`? `tesseral models` lists all
    "#);
}

fn regex_escape(text: &str) -> String {
    text.chars().map(|c| if c.is_alphanumeric() || c == '/' { c.to_string() } else { format!("\\{c}") }).collect()
}

/// The real thing: the wheel from the package index. Needs pip and an index that answers.
#[test]
fn from_a_wheel() {
    let sandbox = Sandbox::new();
    let text = sandbox.run(&["fetch", "7net-mf-0"]);
    if text.contains("no pip was found") || text.contains("pip could not download") {
        assert!(
            text.starts_with("exit code 1") && text.contains("hint: without a network, run `pip download --no-deps sevenn==0.13.0`"),
            "{text}"
        );
        eprintln!("skipped because pip cannot download sevenn==0.13.0 here: {text}");
        return;
    }
    assert!(text.starts_with("exit code 0"), "{text}");
    assert_eq!(cached(&sandbox), ["sevennet-mf-0.safetensors", "sevennet-mf-0.toml"]);
    let info = &json_lines(&sandbox.stdout(&["info", "sevennet-mf-0", "--json"]))[0];
    let mut heads: Vec<&str> = info["heads"].as_array().unwrap().iter().map(|head| head.as_str().unwrap()).collect();
    heads.sort_unstable();
    assert_eq!(heads, ["PBE", "R2SCAN"]);
    assert_eq!(info["sha256"], "81791329b37d445f46b531578c182c41792d98c7814222c9e5dde276402225fd");
    let energies = ["PBE", "R2SCAN"].map(|head| {
        let text = sandbox.stdout(&["evaluate", &example("silicon.vasp"), "-m", "sevennet-mf-0", "--head", head, "--json"]);
        json_lines(&text)[0]["energy"].as_f64().unwrap()
    });
    assert!((energies[0] - energies[1]).abs() > 1.0, "{energies:?}");
    assert!(sandbox.run(&["evaluate", &example("silicon.vasp"), "-m", "sevennet-mf-0"]).contains("PBE"));
}
