//! How long `submit` and `get` take at a given rate, beside the floor: an axum server whose routes do a bare insert and a bare
//! select in the same kind of database, as durable, and nothing else. Both are asked by the same client.
//!
//! `cargo bench -p api --bench load`; `-- --test` runs it at a small size. Requests come at their times, whether those before are
//! answered or not, and are measured from when they should have been sent: a server that falls behind is not asked less.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed measurement, and the panic says where")]

mod served;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use api::Api;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use client::Client;
use jobs::Store;
use serde_json::{Value, json};
use sqlx::AnyPool;
use sqlx::Row;
use sqlx::any::AnyPoolOptions;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use served::{RECIPE, config};

/// Requests a second, and for how long.
const SUBMITS: f64 = 150.0;
const GETS: f64 = 600.0;
const SECONDS: f64 = 8.0;
const SECONDS_OF_TEST: f64 = 0.5;

#[tokio::main]
async fn main() {
    let seconds = if std::env::args().any(|arg| arg == "--test") { SECONDS_OF_TEST } else { SECONDS };
    sqlx::any::install_default_drivers();
    // beside the repository and not in memory: a disk that brings nothing to the disk would be no floor
    let dir = tempfile::tempdir_in(testkit::workspace().join("target")).unwrap();
    println!("database   request         a second   floor p50, p99         ours p50, p99          ratio of p50, p99");
    let sqlite = |name: &str| format!("sqlite://{}/{name}.db?mode=rwc", dir.path().display());
    measure("sqlite", &sqlite("floor"), sqlite("jobs").trim_end_matches("?mode=rwc"), seconds).await;
    match (testkit::postgres::durable_database(), testkit::postgres::durable_database()) {
        (Ok(floor), Ok(ours)) => measure("postgres", &floor, &ours, seconds).await,
        (Err(reason), _) | (_, Err(reason)) => println!("postgres   not measured: {reason}"),
    }
}

async fn measure(name: &str, floor: &str, ours: &str, seconds: f64) {
    let floor = serve_floor(floor).await;
    let ours = serve_ours(ours).await;
    let first = |url: String| async move {
        let job = Client::new(&url).unwrap().submit(RECIPE.to_owned(), &[]).await.unwrap();
        job["id"].as_str().unwrap().to_owned()
    };
    let ids = (first(floor.clone()).await, first(ours.clone()).await);
    let submits = |url: &str| {
        let client = Client::new(url).unwrap();
        move || {
            let client = client.clone();
            async move { drop(client.submit(RECIPE.to_owned(), &[]).await.unwrap()) }
        }
    };
    let gets = |url: &str, id: &str| {
        let (client, id) = (Client::new(url).unwrap(), id.to_owned());
        move || {
            let (client, id) = (client.clone(), id.clone());
            async move { drop(client.job(&id).await.unwrap()) }
        }
    };
    let row = |what: &str, rate: f64, floor: [f64; 2], ours: [f64; 2]| {
        println!(
            "{name:<10} {what:<15} {rate:>8.0}   {:>6.1} ms, {:>6.1} ms   {:>6.1} ms, {:>6.1} ms   {:.1}, {:.1}",
            floor[0],
            floor[1],
            ours[0],
            ours[1],
            ours[0] / floor[0],
            ours[1] / floor[1],
        );
    };
    let at_floor = at_rate(SUBMITS, seconds, submits(&floor)).await;
    row("POST /v1/jobs", SUBMITS, at_floor, at_rate(SUBMITS, seconds, submits(&ours)).await);
    let at_floor = at_rate(GETS, seconds, gets(&floor, &ids.0)).await;
    row("GET /v1/jobs/id", GETS, at_floor, at_rate(GETS, seconds, gets(&ours, &ids.1)).await);
}

/// Milliseconds of the half and of the hundredth that took longest.
async fn at_rate<F>(rate: f64, seconds: f64, call: impl Fn() -> F) -> [f64; 2]
where
    F: Future<Output = ()> + Send + 'static,
{
    let begun = Instant::now();
    let mut under_way = Vec::new();
    for at in 0..(rate * seconds) as usize {
        let due = begun + Duration::from_secs_f64(at as f64 / rate);
        tokio::time::sleep_until(due).await;
        let asked = call();
        under_way.push(tokio::spawn(async move {
            asked.await;
            due.elapsed().as_secs_f64() * 1000.0
        }));
    }
    let mut took: Vec<f64> = Vec::new();
    for one in under_way {
        took.push(one.await.unwrap());
    }
    took.sort_by(f64::total_cmp);
    [0.5, 0.99].map(|part| took[((took.len() - 1) as f64 * part) as usize])
}

/// Answers as a client of jobs expects, of one table with a key and a text.
async fn serve_floor(database: &str) -> String {
    let is_sqlite = database.starts_with("sqlite");
    let pool = AnyPoolOptions::new()
        .max_connections(if is_sqlite { 1 } else { 10 })
        .after_connect(move |connection, _| {
            Box::pin(async move {
                if is_sqlite {
                    sqlx::raw_sql("pragma journal_mode = wal; pragma synchronous = full").execute(connection).await?;
                }
                Ok(())
            })
        })
        .connect(database)
        .await
        .unwrap();
    sqlx::query("create table bare (id text not null primary key, text text not null)").execute(&pool).await.unwrap();
    let router = Router::new().route("/v1/jobs", post(insert)).route("/v1/jobs/{id}", get(select)).with_state(pool);
    let (listener, url) = listen().await;
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

async fn insert(State(pool): State<AnyPool>, body: String) -> Json<Value> {
    let id = uuid::Uuid::now_v7().simple().to_string();
    let row = sqlx::query("insert into bare (id, text) values ($1, $2)").bind(id.as_str()).bind(body);
    row.execute(&pool).await.unwrap();
    Json(json!({"id": id}))
}

async fn select(State(pool): State<AnyPool>, Path(id): Path<String>) -> Json<Value> {
    let row = sqlx::query("select text from bare where id = $1").bind(id).fetch_one(&pool).await.unwrap();
    Json(json!({"text": row.get::<String, _>(0)}))
}

async fn serve_ours(database: &str) -> String {
    let store = Store::open(database).await.unwrap();
    let (listener, url) = listen().await;
    tokio::spawn(api::serve(listener, Api::new(store, Arc::new(config()), CancellationToken::new())));
    url
}

async fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}
