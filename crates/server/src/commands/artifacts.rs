//! `amalgam artifacts`: what a job or a group has published, and the files themselves.

use std::path::{Component, Path, PathBuf};

use client::{Client, ClientError};
use serde_json::{Value, json};

use super::groups;
use crate::bar::Bar;
use crate::cli::ArtifactsArgs;
use crate::report::Failure;

pub async fn run(args: ArtifactsArgs) -> Result<(), Failure> {
    let client = args.server.client()?;
    let as_json = args.server.json;
    let told = |error| Failure::client(error, as_json);
    let (said, folders, lacking) = match groups::is_group(&args.job) {
        true => of_group(&client, &args.job, args.to.as_deref()).await.map_err(told)?,
        false => of_job(&client, &args.job, args.to.as_deref()).await.map_err(told)?,
    };
    let files = folders.iter().try_fold(Vec::new(), |mut files, folder| {
        files.extend(folder.files()?);
        Ok::<_, Failure>(files)
    });
    let files = files.map_err(|failure| failure.in_json(as_json))?;
    if args.to.is_some() {
        let bytes = folders.iter().map(|folder| folder.list["bytes"].as_u64().unwrap_or_default()).sum();
        download(&client, &files, bytes).await.map_err(|failure| failure.in_json(as_json))?;
    }
    match as_json {
        true => println!("{said}"),
        false => files.iter().for_each(|file| println!("{}", file.line())),
    }
    if lacking.is_empty() {
        return Ok(());
    }
    Err(Failure::failed(format!("these variants have published nothing: {}", lacking.join(", "))))
}

/// What one job has published, and where it is to go.
struct Folder {
    /// Before the paths of its files where several are listed.
    name: Option<String>,
    to: PathBuf,
    list: Value,
}

/// One that is told of, of which what has a place may be written.
struct File {
    shown: String,
    place: PathBuf,
    bytes: Option<u64>,
    sha256: String,
    url: String,
}

impl Folder {
    fn files(&self) -> Result<Vec<File>, Failure> {
        let root = match &self.name {
            Some(name) => place(&self.to, name)?,
            None => self.to.clone(),
        };
        let file = |file: &Value| {
            let path = groups::text(&file["path"]);
            Ok(File {
                place: place(&root, &path)?,
                shown: self.name.iter().map(|name| format!("{name}/")).chain([path]).collect(),
                bytes: file["bytes"].as_u64(),
                sha256: groups::text(&file["sha256"]),
                url: groups::text(&file["url"]),
            })
        };
        self.list["data"].as_array().into_iter().flatten().map(file).collect()
    }
}

impl File {
    fn line(&self) -> String {
        let bytes = self.bytes.map_or(String::new(), |bytes| bytes.to_string());
        format!("{bytes:>14}  {}  {}", self.sha256, self.shown)
    }

    fn is(&self, digest: &str, bytes: u64) -> bool {
        self.sha256 == digest && self.bytes.is_none_or(|wanted| wanted == bytes)
    }
}

type Found = (Value, Vec<Folder>, Vec<String>);

async fn of_job(client: &Client, id: &str, to: Option<&Path>) -> Result<Found, ClientError> {
    let list = client.artifacts(id).await?;
    let folder = Folder { name: None, to: to.unwrap_or(Path::new("")).to_owned(), list: list.clone() };
    Ok((list, vec![folder], Vec::new()))
}

/// With the variants that have published nothing.
async fn of_group(client: &Client, id: &str, to: Option<&Path>) -> Result<Found, ClientError> {
    let group = client.group(id).await?;
    let (mut said, mut folders, mut lacking) = (Vec::new(), Vec::new(), Vec::new());
    for job in groups::jobs(&group) {
        let variant = groups::text(&job["variant"]);
        let list = match client.artifacts(&groups::text(&job["id"])).await {
            Err(error) if error.status() == Some(404) => {
                lacking.push(variant);
                continue;
            }
            list => list?,
        };
        said.push(json!({"variant": variant, "job": job["id"], "artifacts": list}));
        folders.push(Folder { name: Some(variant), to: to.unwrap_or(Path::new("")).to_owned(), list });
    }
    Ok((json!({"object": "list", "group": id, "data": said, "lacking": lacking}), folders, lacking))
}

/// What is there is looked at before anything is written: a file that differs is somebody's.
async fn download(client: &Client, files: &[File], total: u64) -> Result<(), Failure> {
    let mut missing = Vec::new();
    let mut done = 0;
    for file in files {
        match client::digest_of(&file.place).await.map_err(|error| Failure::client(error, false))? {
            None => missing.push(file),
            Some((digest, bytes)) if file.is(&digest, bytes) => done += bytes,
            Some(_) => {
                let detail = "exists and is another file; remove it, or choose another directory";
                return Err(Failure::refused(format!("{} {detail}", file.place.display())));
            }
        }
    }
    let bar = Bar::new();
    for file in missing {
        if let Some(parent) = file.place.parent() {
            std::fs::create_dir_all(parent).map_err(|e| Failure::failed(format!("{}: {e}", parent.display())))?;
        }
        let on_bytes = |bytes| bar.set("downloading", done + bytes, total);
        let got = client.download(&file.url, &file.sha256, &file.place, &on_bytes).await;
        got.map_err(|error| Failure::client(error, false))?;
        done += file.bytes.unwrap_or_default();
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
