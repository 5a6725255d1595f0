//! A job from submit to its artifact.

use testkit::{Tensor, read_checkpoint};

use crate::{Served, amalgam, end_of, example, published_dir};

#[tokio::test]
async fn a_posted_recipe_ends_as_a_merged_model_with_right_digests() {
    let mut served = Served::start(&[]);
    let job = served.client().submit(example("task-arithmetic.yml"), &[]).await.unwrap();
    assert_eq!(job["status"], "queued");
    let job = end_of(&served.client(), job["id"].as_str().unwrap()).await;
    assert_eq!(job["status"], "succeeded", "{job}");
    let dir = published_dir(&job);
    assert!(dir.starts_with(std::fs::canonicalize(served.dir.path()).unwrap()));
    for file in job["publication"]["files"].as_array().unwrap() {
        let path = dir.join(file["path"].as_str().unwrap());
        assert_eq!(checkpoint::digest_file(&path).unwrap(), file["sha256"], "{}", path.display());
    }
    assert!(!read_checkpoint(&dir).is_empty());
    assert!(served.server.terminate());
    assert_eq!(std::fs::read_dir(served.dir.path().join("data/work")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_service_and_the_command_line_write_the_same_bytes() {
    let served = Served::start(&[]);
    let job = served.client().submit(example("ties.yml"), &[]).await.unwrap();
    let job = end_of(&served.client(), job["id"].as_str().unwrap()).await;
    let out = served.dir.path().join("cli");
    let merged =
        amalgam(&["merge", "examples/recipes/ties.yml", out.to_str().unwrap(), "--threads", "1", "--memory", "1MiB"]);
    assert!(merged.status.success(), "{}", String::from_utf8_lossy(&merged.stderr));
    let bytes = |t: &std::collections::BTreeMap<String, Tensor>| {
        t.iter().map(|(n, t)| (n.clone(), t.bytes.clone())).collect::<Vec<_>>()
    };
    assert_eq!(bytes(&read_checkpoint(&published_dir(&job))), bytes(&read_checkpoint(&out)));
}

#[tokio::test]
async fn the_log_tells_every_phase_in_order() {
    let served = Served::start(&[]);
    let client = served.client();
    let job = client.submit(example("slerp.yml"), &[]).await.unwrap();
    let mut watch = client.watch(job["id"].as_str().unwrap());
    let mut kinds = Vec::new();
    while let Some(event) = watch.next().await.unwrap() {
        if event.kind != "progress" {
            kinds.push(event.kind);
        }
    }
    let order = ["queued", "started", "fetched", "planned", "merged", "published", "succeeded", "end"];
    // every connection begins with a snapshot, and there may be several
    assert_eq!(kinds[0], "snapshot");
    let told: Vec<&str> = kinds.iter().map(String::as_str).filter(|k| !["warning", "snapshot"].contains(k)).collect();
    assert_eq!(told, order);
}

#[tokio::test]
async fn a_job_may_name_its_output_below_the_root_and_nowhere_else() {
    let served = Served::start(&[]);
    let client = served.client();
    let named = |output: &str| vec![("output", output.to_owned())];
    let job = client.submit(example("linear.yml"), &named("team/first")).await.unwrap();
    let job = end_of(&client, job["id"].as_str().unwrap()).await;
    assert!(published_dir(&job).ends_with("artifacts/team/first"), "{job}");
    for output in ["team/first", "../escape", "/tmp/escape", "a//../../b"] {
        let error = client.submit(example("linear.yml"), &named(output)).await.unwrap_err();
        assert!(error.to_string().contains("output"), "{output}: {error}");
    }
}

#[tokio::test]
async fn a_second_worker_process_takes_jobs_of_a_server_without_one() {
    let served = Served::start(&["--workers", "0"]);
    let client = served.client();
    let job = client.submit(example("linear.yml"), &[]).await.unwrap();
    let data_dir = served.dir.path().join("data");
    let mut worker = std::process::Command::new(crate::BINARY)
        .arg("worker")
        .arg("--data-dir")
        .arg(&data_dir)
        .arg("--source-root")
        .arg(testkit::workspace())
        .spawn()
        .unwrap();
    let ended = end_of(&client, job["id"].as_str().unwrap()).await;
    worker.kill().unwrap();
    worker.wait().unwrap();
    assert_eq!(ended["status"], "succeeded", "{ended}");
}

#[tokio::test]
async fn a_fleet_works_behind_a_pooler_of_transactions() {
    let (url, direct) = match testkit::postgres::fresh_database_behind_pooler() {
        Ok(urls) => urls,
        Err(reason) => return println!("not tested behind pgbouncer: {reason}"),
    };
    let flags = ["--database", &url, "--database-direct", &direct, "--workers", "2"];
    let mut served = Served::start(&flags);
    let client = served.client();
    let mut ids = Vec::new();
    for _ in 0..6 {
        let job = client.submit(example("linear.yml"), &[]).await.unwrap();
        ids.push(job["id"].as_str().unwrap().to_owned());
    }
    for id in ids {
        let job = end_of(&client, &id).await;
        assert_eq!((&job["status"], &job["attempt"]), (&"succeeded".into(), &1.into()), "{job}");
    }
    assert!(served.server.terminate());
}

#[tokio::test]
async fn an_artifact_is_listed_and_downloaded_whole() {
    let served = Served::start(&[]);
    let job = served.client().submit(example("linear.yml"), &[]).await.unwrap();
    let job = end_of(&served.client(), job["id"].as_str().unwrap()).await;
    let to = served.dir.path().join("got");
    let artifacts =
        |to: &str| amalgam(&["artifacts", job["id"].as_str().unwrap(), "--to", to, "--url", &served.server.url]);
    let output = artifacts(to.to_str().unwrap());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let listed = String::from_utf8(output.stdout).unwrap();
    let mut names: Vec<_> =
        std::fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let mut there: Vec<_> = std::fs::read_dir(published_dir(&job))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    there.sort();
    assert_eq!(names, there);
    for name in names {
        let digest = checkpoint::digest_file(&to.join(&name)).unwrap();
        assert_eq!(digest, checkpoint::digest_file(&published_dir(&job).join(&name)).unwrap());
        assert!(listed.contains(&digest), "{name}: {listed}");
    }
    assert!(artifacts(to.to_str().unwrap()).status.success(), "what is there whole is kept");
    // a file that was changed behind the server's back is not taken for what it was
    std::fs::write(
        published_dir(&job).join("recipe.yml"),
        "x".repeat(std::fs::read(to.join("recipe.yml")).unwrap().len()),
    )
    .unwrap();
    let changed = artifacts(served.dir.path().join("again").to_str().unwrap());
    assert!(!changed.status.success() && String::from_utf8_lossy(&changed.stderr).contains("SHA-256"));
    assert!(!served.dir.path().join("again/recipe.yml").exists());
}
