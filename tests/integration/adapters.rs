//! Adapters as jobs: extracted, merged with each other, applied.

use testkit::read_checkpoint;

use crate::{Served, amalgam, end_of, published_dir};

const BASE: &str = "examples/models/base";

/// Norm of the difference of all tensors of two models.
fn distance(a: &std::path::Path, b: &std::path::Path) -> f64 {
    let (a, b) = (read_checkpoint(a), read_checkpoint(b));
    let squares =
        |name: &String| a[name].values.iter().zip(&b[name].values).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
    a.keys().map(squares).sum::<f64>().sqrt()
}

#[tokio::test]
async fn an_adapter_is_extracted_mixed_and_applied() {
    let served = Served::start(&[]);
    let client = served.client();
    let mut adapters = Vec::new();
    for model in ["upper", "reverse"] {
        let recipe = format!(
            "merge_method: extract_lora\nbase_model: {BASE}\nmodels: [{{model: examples/models/{model}}}]\nparameters: {{rank: 16, save: false}}\n"
        );
        let job = client.submit(recipe, &[]).await.unwrap();
        let job = end_of(&client, job["id"].as_str().unwrap()).await;
        assert_eq!(job["status"], "succeeded", "{job}");
        adapters.push(published_dir(&job));
    }
    let mix = served.dir.path().join("mix.yml");
    let [first, second] = [&adapters[0], &adapters[1]].map(|dir| dir.display().to_string());
    std::fs::write(
        &mix,
        format!("merge_method: cat\nmodels: [{{model: {first}}}, {{model: {second}, parameters: {{weight: 0}}}}]\n"),
    )
    .unwrap();
    let mixed = served.dir.path().join("mixed");
    let made = amalgam(&["merge", mix.to_str().unwrap(), mixed.to_str().unwrap()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let checked = amalgam(&["check", mix.to_str().unwrap()]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));

    let apply = served.dir.path().join("apply.yml");
    std::fs::write(&apply, format!("merge_method: passthrough\nmodels: [{{model: {BASE}+{}}}]\n", mixed.display()))
        .unwrap();
    let applied = served.dir.path().join("applied");
    let made = amalgam(&["merge", apply.to_str().unwrap(), applied.to_str().unwrap()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let models = testkit::workspace().join("examples/models");
    let (before, after) =
        (distance(&models.join("base"), &models.join("upper")), distance(&applied, &models.join("upper")));
    assert!(after < 0.8 * before, "{after} from the fine-tune, the base is {before}");
}
