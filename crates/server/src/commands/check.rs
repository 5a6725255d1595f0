//! `amalgam check`: all that can be said without the models, and with those that are here, what their headers say.

use std::collections::BTreeSet;

use checkpoint::Access;
use recipe::{Problem, Refusal, Stages, Variant, with_each};
use serde_json::{Value, json};

use crate::cli::CheckArgs;
use crate::report::{Failure, warn};

pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let text = super::read_recipe(&args.recipe)?;
    let merges = super::merges(&args.recipe, &text, &args.reading)?;
    let checked = with_each(&merges, |merge| {
        let (warnings, elsewhere) = check(&merge.stages(args.reading.lenient)?)?;
        Ok((elsewhere, warnings))
    });
    let (elsewhere, warnings) =
        checked.map_err(|refusal| Failure::recipe(&args.recipe, &refusal, args.reading.json))?;
    let elsewhere: Vec<String> = elsewhere.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect();
    warn(&args.recipe, &warnings);
    if args.reading.json {
        let said = json!({"ok": true, "errors": [], "warnings": warnings, "models_not_here": elsewhere});
        println!("{}", with_names(said, &merges));
        return Ok(());
    }
    match super::names(&merges).as_str() {
        "" => {}
        names => println!("variants: {names}"),
    }
    match elsewhere.as_slice() {
        [] => println!("ok"),
        models => println!("ok as far as can be said without the models; not here: {}", models.join(", ")),
    }
    Ok(())
}

fn with_names(mut said: Value, merges: &[Variant]) -> Value {
    let names: Vec<&str> = merges.iter().filter_map(Variant::name).collect();
    if !names.is_empty() {
        said["variants"] = json!(names);
    }
    said
}

fn check(stages: &Stages) -> Result<(Vec<Problem>, Vec<String>), Refusal> {
    let checked = engine::check_stages(stages, &Access::Anywhere)?;
    Ok((checked.warnings, checked.elsewhere.iter().map(|m| m.to_string()).collect()))
}
