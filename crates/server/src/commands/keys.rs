//! `amalgam keys`: who may use the server. Works on its database, so that it needs no server and no key.

use std::time::{SystemTime, UNIX_EPOCH};

use jobs::{Actor, ApiKey, NewKey};
use serde_json::{Value, json};

use super::groups;
use super::serve::{close, open_store};
use crate::cli::{KeysArgs, KeysCommand};
use crate::report::Failure;

const DAY_MS: i64 = 24 * 3600 * 1000;
const NAME_CHARS_MAX: usize = 64;
const HEAD: [&str; 9] = ["id", "tenant", "name", "state", "created", "expires", "last used", "revoked", "scopes"];

pub async fn run(args: KeysArgs) -> Result<(), Failure> {
    let as_json = args.command.is_json();
    done(args).await.map_err(|failure| failure.in_json(as_json))
}

async fn done(args: KeysArgs) -> Result<(), Failure> {
    let config = args.command.config().resolve()?;
    if let KeysCommand::Create { name, tenant, .. } = &args.command {
        check_name("name", name)?;
        check_name("tenant", tenant)?;
    }
    let file = config.database.strip_prefix("sqlite://").map(std::path::PathBuf::from);
    // opening would make an empty database, and a key of nothing protects nothing
    if let (Some(missing), false) = (file.filter(|file| !file.is_file()), is_create(&args.command)) {
        return Err(Failure::refused(format!("there is no database at {}", missing.display())));
    }
    eprintln!("keys of {}", shown(&config.database));
    let store = open_store(&config).await?.by(Actor::cli());
    let told = tell(&store, &args.command).await;
    close(&store).await;
    println!("{}", told?);
    Ok(())
}

fn is_create(command: &KeysCommand) -> bool {
    matches!(command, KeysCommand::Create { .. })
}

/// A key that got out is at hand as a whole.
fn id_of(text: &str) -> &str {
    text.strip_prefix("amk_").and_then(|key| key.split('_').next()).unwrap_or(text)
}

/// Without what may be a password.
fn shown(database: &str) -> &str {
    if database.starts_with("sqlite:") { database } else { database.rsplit('@').next().unwrap_or_default() }
}

async fn tell(store: &jobs::Store, command: &KeysCommand) -> Result<String, Failure> {
    match command {
        KeysCommand::Create { name, tenant, scope, adopt, expires_days, json, .. } => {
            let expires_at = expires_days.map(|days| now_ms() + i64::from(days) * DAY_MS);
            let scopes = scope.iter().copied().collect();
            let new = NewKey { name: name.clone(), tenant: tenant.clone(), scopes, expires_at, adopts: *adopt };
            let (made, secret) = store.create_key(new).await.map_err(Failure::failed)?;
            eprintln!(
                "this key is shown now and never again; send it as `Authorization: Bearer ...`, or in AMALGAM_API_KEY"
            );
            match json {
                true => Ok(with_secret(&made, secret.reveal())?.to_string()),
                false => Ok(secret.reveal().to_owned()),
            }
        }
        KeysCommand::List { json, .. } => {
            let keys = store.keys().await.map_err(Failure::failed)?;
            match json {
                true => serde_json::to_string(&keys).map_err(Failure::failed),
                false => Ok(table(&keys)),
            }
        }
        KeysCommand::Revoke { id, json, .. } => match store.revoke_key(id_of(id)).await.map_err(Failure::failed)? {
            true if *json => Ok(json!({"id": id_of(id), "revoked": true}).to_string()),
            true => Ok(format!("{} is revoked", id_of(id))),
            // what was given may be a whole key
            false => Err(Failure::refused("there is no key of this id; `amalgam keys list` has them")),
        },
    }
}

fn with_secret(key: &ApiKey, secret: &str) -> Result<Value, Failure> {
    let mut said = serde_json::to_value(key).map_err(Failure::failed)?;
    said["key"] = json!(secret);
    Ok(said)
}

fn table(keys: &[ApiKey]) -> String {
    let now = now_ms();
    let row = |key: &ApiKey| {
        let state = match key {
            key if key.revoked_at.is_some() => "revoked",
            key if !key.is_good_at(now) => "expired",
            key if key.last_used_at.is_none() => "unused",
            _ => "used",
        };
        let date = |time: Option<i64>| time.map_or_else(|| "-".to_owned(), jobs::rfc3339);
        let dates = [Some(key.created_at), key.expires_at, key.last_used_at, key.revoked_at].map(date);
        let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
        let mut row = vec![key.id.clone(), key.tenant.clone(), key.name.clone(), state.to_owned()];
        row.extend(dates);
        row.push(scopes.join(" "));
        row
    };
    if keys.is_empty() {
        return "there are no keys: whoever reaches the server may do everything".to_owned();
    }
    let head = HEAD.map(str::to_owned).to_vec();
    groups::aligned([head].into_iter().chain(keys.iter().map(row)).collect())
}

/// A tenant becomes a directory below each output root.
fn check_name(what: &str, name: &str) -> Result<(), Failure> {
    let is_plain = (1..=NAME_CHARS_MAX).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    if is_plain {
        return Ok(());
    }
    Err(Failure::refused(format!("{what} {name:?}: use 1 to {NAME_CHARS_MAX} letters, digits, `.`, `-` and `_`")))
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}
