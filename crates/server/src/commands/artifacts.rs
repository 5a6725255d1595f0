//! `amalgam artifacts`: what a job has published, and the files themselves.

use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use client::Client;
use serde_json::Value;

use crate::bar::Bar;
use crate::cli::ArtifactsArgs;
use crate::report::Failure;

pub async fn run(args: ArtifactsArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let list = client.artifacts(&args.job).await.map_err(|e| Failure::client(e, args.server.json))?;
    let files = list["data"].as_array().cloned().unwrap_or_default();
    if let Some(to) = &args.to {
        download(&client, &files, to, list["bytes"].as_u64().unwrap_or_default(), args.server.json).await?;
    }
    if args.server.json {
        println!("{list}");
    } else {
        files.iter().for_each(|file| println!("{}", line(file)));
    }
    Ok(())
}

fn line(file: &Value) -> String {
    let bytes = file["bytes"].as_u64().map_or(String::new(), |bytes| bytes.to_string());
    let text = |key: &str| file[key].as_str().unwrap_or_default();
    format!("{bytes:>14}  {}  {}", text("sha256"), text("path"))
}

async fn download(client: &Client, files: &[Value], to: &Path, total: u64, as_json: bool) -> Result<(), Failure> {
    super::merge::check_way(to)?;
    let (bar, done) = (Bar::new(), AtomicU64::new(0));
    for file in files {
        let text = |key: &str| file[key].as_str().unwrap_or_default();
        let place = place(to, text("path"))?;
        if let Some(parent) = place.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Failure::failed(format!("{}: {e}", parent.display())))?;
        }
        let on_bytes = |bytes| bar.set("downloading", done.fetch_add(bytes, Ordering::Relaxed) + bytes, total);
        let got = client.download(text("url"), text("sha256"), &place, &on_bytes).await;
        got.map_err(|e| Failure::client(e, as_json))?;
    }
    bar.clear();
    Ok(())
}

/// A server may name anything: what is written lies below the directory.
fn place(to: &Path, path: &str) -> Result<PathBuf, Failure> {
    let is_below = !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if is_below { Ok(to.join(path)) } else { Err(Failure::failed(format!("the server names a file {path:?}"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_outside_of_the_directory() {
        let to = Path::new("out");
        assert_eq!(place(to, "stages/a/config.json").unwrap(), to.join("stages/a/config.json"));
        for wrong in ["", "..", "../x", "/etc/passwd", "a/../../x"] {
            assert!(place(to, wrong).is_err(), "{wrong:?}");
        }
    }
}
