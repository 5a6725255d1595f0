//! How fast the queue takes, gives and ends jobs, beside the floor of a bare insert that is as durable, taken just before.
//!
//! `cargo bench -p api --bench queue`; `-- --test` runs it at a small size.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed measurement, and the panic says where")]

mod served;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use api::Api;
use client::Client;
use jobs::{Lease, NewJob, Outcome, Store, WorkerId};
use serde_json::json;
use sqlx::any::AnyPoolOptions;
use tokio_util::sync::CancellationToken;

use served::{RECIPE, config};

const TTL: Duration = Duration::from_secs(60);
const JOBS: usize = 1000;
const JOBS_OF_TEST: usize = 40;
/// Calls at once.
const AT_ONCE: usize = 16;
const WORKERS: usize = 50;

#[tokio::main]
async fn main() {
    let count = if std::env::args().any(|arg| arg == "--test") { JOBS_OF_TEST } else { JOBS };
    // beside the repository and not in memory: a disk that brings nothing to the disk would be no floor
    let dir = tempfile::tempdir_in(testkit::workspace().join("target")).unwrap();
    println!("{count} jobs, {AT_ONCE} calls at once; jobs a second, and as a part of the floor\n");
    println!(
        "database   floor  submit         claim          finish         {WORKERS} workers         HTTP submit: a second, p50, p99"
    );
    measure("sqlite", &format!("sqlite://{}/jobs.db", dir.path().display()), count).await;
    match testkit::postgres::durable_database() {
        Ok(url) => measure("postgres", &url, count).await,
        Err(reason) => println!("postgres   not measured: {reason}"),
    }
}

async fn measure(name: &str, url: &str, count: usize) {
    let store = Store::open(url).await.unwrap();
    let floor = floor(url, count).await;
    let submit = per_second(count, |_| async { drop(store.enqueue(empty_job()).await.unwrap()) }).await;
    let leases = tokio::sync::Mutex::new(Vec::<Lease>::new());
    let worker = WorkerId::generate("bench");
    let claim = per_second(count, |_| async {
        let lease = store.claim(&worker, TTL).await.unwrap().expect("a job for each claim");
        leases.lock().await.push(lease);
    })
    .await;
    let leases = leases.into_inner();
    let finish = per_second(count, |at| finished(&store, &leases[at])).await;
    let all = all_of_it(&store, url, count).await;
    let (submit_http, latencies) = http(&store, count).await;
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1000.0;
    let cell = |rate: f64| format!("{rate:.0} ({:.0} %)", 100.0 * rate / floor);
    println!(
        "{name:<10} {floor:<6.0} {:<14} {:<14} {:<14} {:<18} {submit_http:.0}, {:.1} ms, {:.1} ms",
        cell(submit),
        cell(claim),
        cell(finish),
        cell(all),
        at(0.5),
        at(0.99),
    );
    store.close().await;
}

/// Calls in a second, of `AT_ONCE` loops that share a count.
async fn per_second<F: Future<Output = ()>>(count: usize, call: impl Fn(usize) -> F) -> f64 {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let one = || async {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count {
                return;
            }
            call(at).await;
        }
    };
    futures::future::join_all((0..AT_ONCE).map(|_| one())).await;
    count as f64 / started.elapsed().as_secs_f64()
}

/// One row in one transaction, on a table of its own, by as many connections as help.
async fn floor(url: &str, count: usize) -> f64 {
    let connections = if url.starts_with("sqlite") { 1 } else { 10 };
    let pragmas = url.starts_with("sqlite");
    let pool = AnyPoolOptions::new()
        .max_connections(connections)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if pragmas {
                    sqlx::raw_sql("pragma journal_mode = wal; pragma synchronous = full").execute(connection).await?;
                }
                Ok(())
            })
        })
        .connect(url)
        .await
        .unwrap();
    sqlx::query("create table bare (id bigint not null primary key, text text not null)").execute(&pool).await.unwrap();
    let rate = per_second(count, |at| {
        let pool = &pool;
        async move {
            let insert = sqlx::query("insert into bare (id, text) values ($1, $2)").bind(at as i64).bind(RECIPE);
            insert.execute(pool).await.unwrap();
        }
    })
    .await;
    pool.close().await;
    rate
}

fn empty_job() -> NewJob {
    NewJob::of("", "linear")
}

async fn finished(store: &Store, lease: &Lease) {
    store.finish(lease, Outcome::Succeeded { publication: json!({}), published: None }).await.unwrap();
}

/// Jobs submitted, claimed and finished in a second, by workers of which each has a handle of its own process's kind.
async fn all_of_it(store: &Store, url: &str, count: usize) -> f64 {
    let mut stores = Vec::new();
    for _ in 0..WORKERS / 10 {
        stores.push(Store::open(url).await.unwrap());
    }
    let left = Arc::new(AtomicUsize::new(count));
    let started = Instant::now();
    let workers: Vec<_> = (0..WORKERS)
        .map(|at| {
            let (store, left) = (stores[at % stores.len()].clone(), left.clone());
            tokio::spawn(async move {
                let worker = WorkerId::generate("bench");
                while left.load(Ordering::Relaxed) > 0 {
                    match store.claim(&worker, TTL).await.unwrap() {
                        Some(lease) => {
                            finished(&store, &lease).await;
                            left.fetch_sub(1, Ordering::Relaxed);
                        }
                        None => store.changed(Duration::from_millis(20)).await,
                    }
                }
            })
        })
        .collect();
    per_second(count, |_| async { drop(store.enqueue(empty_job()).await.unwrap()) }).await;
    for worker in workers {
        worker.await.unwrap();
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    for store in stores {
        store.close().await;
    }
    rate
}

/// Recipes posted over HTTP, checked and planned, while workers claim and finish what comes; and how long each took, in order.
async fn http(store: &Store, count: usize) -> (f64, Vec<Duration>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(api::serve(listener, Api::new(store.clone(), Arc::new(config()), shutdown.clone())));
    let working = {
        let (store, shutdown) = (store.clone(), shutdown.clone());
        tokio::spawn(async move {
            let worker = WorkerId::generate("bench");
            while !shutdown.is_cancelled() {
                match store.claim(&worker, TTL).await.unwrap() {
                    Some(lease) => finished(&store, &lease).await,
                    None => store.changed(Duration::from_millis(20)).await,
                }
            }
        })
    };
    let client = Client::new(&url).unwrap();
    let latencies = tokio::sync::Mutex::new(Vec::new());
    let rate = per_second(count, |_| async {
        let started = Instant::now();
        client.submit(RECIPE.to_owned(), &[]).await.unwrap();
        latencies.lock().await.push(started.elapsed());
    })
    .await;
    shutdown.cancel();
    working.await.unwrap();
    serving.await.unwrap().unwrap();
    let mut latencies = latencies.into_inner();
    latencies.sort();
    (rate, latencies)
}
