use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use serde_json::json;

use super::*;

fn document(name: &str, models: &[&str]) -> String {
    let name = if name.is_empty() { String::new() } else { format!("name: {name}\n") };
    let models: String = models.iter().map(|m| format!("- model: {m}\n  parameters: {{weight: 1}}\n")).collect();
    format!("{name}merge_method: linear\nmodels:\n{models}")
}

fn text(documents: &[(&str, &[&str])]) -> String {
    documents.iter().map(|(name, models)| document(name, models)).collect::<Vec<_>>().join("---\n")
}

fn parsed(documents: &[(&str, &[&str])]) -> Stages {
    Stages::parse(&text(documents), false).unwrap_or_else(|refusal| panic!("{refusal}"))
}

fn names(stages: &Stages) -> Vec<&str> {
    stages.iter().map(|s| s.name().unwrap_or("")).collect()
}

/// Pointer, line and code of the one problem.
fn refused(text: &str) -> (String, Option<u32>, String, String) {
    let refusal = Stages::parse(text, false).unwrap_err();
    let [only] = refusal.problems.as_slice() else { panic!("{refusal}") };
    (only.pointer.clone(), only.line, only.code.clone(), only.detail.clone())
}

#[test]
fn a_stage_comes_after_those_it_uses_and_the_unnamed_one_last() {
    let stages = parsed(&[("", &["c", "x"]), ("c", &["b", "z1"]), ("a", &["x", "z1"]), ("b", &["a", "x"])]);
    assert_eq!(names(&stages), ["a", "b", "c", ""]);
    let uses: Vec<Vec<usize>> = stages.iter().map(|s| s.uses.iter().map(|u| u.stage).collect()).collect();
    assert_eq!(uses, [vec![], vec![0], vec![1], vec![2]]);
    assert_eq!(stages.warnings, []);
}

#[test]
fn of_stages_that_could_be_next_the_first_in_the_text_is() {
    let stages = parsed(&[("z", &["x", "z1"]), ("a", &["x", "z1"]), ("m", &["a", "z"])]);
    assert_eq!(names(&stages), ["z", "a", "m"]);
    assert_eq!(stages.result().name(), Some("m"));
}

#[test]
fn a_name_means_a_stage_only_as_a_whole_model_reference() {
    let stages = parsed(&[("linear", &["x", "z1"]), ("", &["linear", "./linear", "org/linear"])]);
    assert_eq!(stages.result().recipe.merge_method, "linear");
    assert_eq!(stages.result().uses, [StageUse { model: ModelRef::local("linear"), stage: 0 }]);
}

#[test]
fn every_place_of_a_model_may_name_a_stage() {
    let last = "merge_method: linear\nmodels: [{model: {path: a}}, {model: x}]\nbase_model: b\ntokenizer: {source: c, tokens: {t: {source: d}}}\n";
    let stages = ["a", "b", "c", "d"].map(|name| document(name, &["x", "z1"])).join("---\n") + "---\n" + last;
    let stages = Stages::parse(&stages, false).unwrap();
    let used: Vec<&str> = stages.result().uses.iter().map(|u| u.model.path.as_str()).collect();
    assert_eq!(used, ["a", "b", "c", "d"]);
}

#[test]
fn circles_are_refused_with_their_names_where_they_begin() {
    let circle = text(&[("", &["a", "x"]), ("c", &["x", "a"]), ("b", &["x", "c"]), ("a", &["b", "x"])]);
    let (pointer, line, code, detail) = refused(&circle);
    assert_eq!((pointer.as_str(), line, code.as_str()), ("/1/models/1/model", Some(13), "circular_stages"));
    assert!(detail.ends_with("c uses a uses b uses c"), "{detail}");
    let (pointer, _, code, detail) = refused(&text(&[("a", &["x", "a"]), ("", &["a", "x"])]));
    assert_eq!((pointer.as_str(), code.as_str()), ("/0/models/1/model", "circular_stages"));
    assert!(detail.ends_with("a uses a"), "{detail}");
}

#[test]
fn names_are_unique_plain_and_absent_at_most_once() {
    let two: &[&str] = &["x", "z1"];
    for (documents, expected) in [
        ([("a", two), ("a", two), ("", two)], ("/1/name", Some(9), "duplicate_stage")),
        ([("a", two), ("", two), ("", two)], ("/2", Some(16), "unnamed_stage")),
        ([("a/b", two), ("b", two), ("", two)], ("/0/name", Some(1), "invalid_value")),
        ([("..", two), ("b", two), ("", two)], ("/0/name", Some(1), "invalid_value")),
        ([("a", two), ("b", two), ("c", &["a", "x"])], ("/2/name", Some(17), "ambiguous_result")),
        ([("a", two), ("b", two), ("", &["a@v1", "x"])], ("/2/models/0/model", Some(19), "invalid_value")),
    ] {
        let (pointer, line, code, detail) = refused(&text(&documents));
        assert_eq!((pointer.as_str(), line, code.as_str()), expected, "{detail}");
    }
}

#[test]
fn what_leads_nowhere_is_not_made_and_told_of_unless_it_is_kept() {
    let documents = text(&[("a", &["x", "z1"]), ("b", &["a", "z1"]), ("", &["x", "z1"])]);
    let stages = Stages::parse(&documents, false).unwrap();
    assert_eq!(names(&stages), [""]);
    let told: Vec<_> = stages.warnings.iter().map(|w| (w.pointer.as_str(), w.line, w.code.as_str())).collect();
    assert_eq!(told, [("/0/name", Some(1), "unused_stage"), ("/1/name", Some(9), "unused_stage")]);
    let kept = Stages::parse(&documents.replace("name: b\n", "name: b\nkeep: yes\n"), false).unwrap();
    assert_eq!((names(&kept), kept.warnings.len()), (vec!["a", "b", ""], 0));
    assert_eq!(kept.iter().map(|s| s.keep).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn keep_changes_nothing_of_a_recipe_and_is_true_or_false() {
    let plain = Stages::parse(&document("a", &["x"]), false).unwrap();
    let kept = Stages::parse(&(document("a", &["x"]) + "keep: true\n"), false).unwrap();
    let json = |s: &Stages| serde_json::to_value(&s.result().recipe).unwrap();
    assert_eq!((json(&plain), kept.result().keep), (json(&kept), false));
    assert_eq!((kept.warnings[0].pointer.as_str(), kept.warnings[0].code.as_str()), ("/keep", "no_effect"));
    let typo = Stages::parse(&(document("a", &["x"]) + "kepe: true\n"), false).unwrap_err();
    assert!(typo.problems[0].detail.contains("did you mean `keep`?"), "{typo}");
    let (pointer, line, code, _) = refused(&(document("a", &["x"]) + "keep: 3\n"));
    assert_eq!((pointer.as_str(), line, code.as_str()), ("/keep", Some(6), "invalid_type"));
}

#[test]
fn problems_of_all_documents_are_told_with_the_places_of_the_whole_text() {
    let text =
        "name: a\nmerge_method: linear\nmodel: []\n---\n# the second\nmerge_method: linear\nmodels:\n- modle: x\n";
    let refusal = Stages::parse(text, false).unwrap_err();
    let told: Vec<_> =
        refusal.problems.iter().map(|p| (p.pointer.as_str(), p.line, p.column, p.code.as_str())).collect();
    assert_eq!(
        told,
        [
            ("/0/model", Some(3), Some(1), "unknown_key"),
            ("/0", Some(1), Some(1), "missing"),
            ("/1/models/0/modle", Some(8), Some(3), "unknown_key"),
            ("/1/models/0", Some(8), Some(3), "missing"),
        ]
    );
}

#[test]
fn a_list_of_objects_is_a_recipe_of_several_documents() {
    let model = |name: &str| json!({"model": name, "parameters": {"weight": 1}});
    let first = json!({"name": "a", "merge_method": "linear", "models": [model("x"), model("z1")]});
    let second = json!({"merge_method": "linear", "models": [model("a"), model("z1")]});
    let list = json!([second, first]);
    let stages = Stages::from_json(&list, false).unwrap();
    assert_eq!(names(&stages), ["a", ""]);
    // as it is written beside the artifact
    let read = Stages::parse(&list.to_string(), false).unwrap();
    assert_eq!(names(&read), ["a", ""]);
    for wrong in [json!([]), json!([[]]), json!([first, 3]), json!(vec![first; limits::STAGES_MAX + 1])] {
        assert!(Stages::from_json(&wrong, false).is_err(), "{wrong}");
    }
    let refusal = Stages::from_json(&json!([{"merge_method": "linear"}]), false).unwrap_err();
    assert_eq!(refusal.problems[0].pointer, "/0");
}

#[test]
fn documents_are_counted_and_empty_ones_passed_over() {
    let many = |n: usize| {
        let all: Vec<String> = (0..n).map(|i| document(&format!("s{i}"), &["x", "z1"])).collect();
        all.join("---\n") + "---\n" + &document("", &["s0", "z1"])
    };
    assert_eq!(Stages::parse(&many(limits::STAGES_MAX - 1), false).unwrap().iter().len(), 2);
    let (_, _, code, detail) = refused(&many(limits::STAGES_MAX));
    assert_eq!(code, "too_many");
    assert!(detail.contains("32"), "{detail}");
    assert_eq!(refused(&many(10 * limits::STAGES_MAX)).2, "too_large");
    assert_eq!(
        refused(&format!(
            "a: [{}\n---\n{}",
            "x, ".repeat(30_000) + "x]",
            "b: [".to_owned() + &"x, ".repeat(30_000) + "x]\n"
        ))
        .2,
        "too_large"
    );
    for text in ["---\n", "---\n---\n", ""] {
        assert_eq!(refused(text).2, "missing", "{text:?}");
    }
    let alone = format!("---\n{}---\n...\n", document("a", &["a", "x"]));
    let stages = Stages::parse(&alone, false).unwrap();
    assert_eq!((stages.iter().len(), stages.result().uses.len()), (1, 0));
}

/// Texts of one document: whole ones, and what is left when a piece of one is cut out.
fn one_document() -> impl Strategy<Value = String> {
    let whole = prop_oneof![
        Just(document("a", &["a", "org/x@v1"])),
        Just("merge_method: slerp\nbase_model: a\nslices:\n- sources: [{model: a, layer_range: [0, 4]}, {model: b, layer_range: [0, 4]}]\nparameters: {t: [{filter: mlp, value: [0, 1]}, 0.5]}\n".to_owned()),
        Just("%YAML 1.2\n---\nmerge_method: &m linear\nmodels: [{model: *m}]\nlenient: yes\nextra: {<<: {a: 1}}\n...\n".to_owned()),
        Just("{\"merge_method\": \"ties\", \"models\": [{\"model\": \"a\"}], \"name\": 3}".to_owned()),
    ];
    (whole, any::<prop::sample::Index>(), 0usize..12).prop_map(|(text, at, length)| {
        let from = at.index(text.len() + 1);
        let to = (from + length).min(text.len());
        [text.get(..from).unwrap_or(""), text.get(to..).unwrap_or("")].concat()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, rng_seed: RngSeed::Fixed(7), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_document_is_what_it_is_without_stages(text in one_document(), lenient: bool) {
        let alone = Recipe::parse(&text, lenient);
        prop_assume!(!alone.as_ref().is_err_and(|r| r.problems[0].code == "several_documents"));
        match (alone, Stages::parse(&text, lenient)) {
            (Ok(recipe), Ok(stages)) => {
                prop_assert_eq!(&recipe, &stages.result().recipe);
                prop_assert_eq!((stages.iter().len(), stages.warnings.len(), stages.result().uses.len()), (1, 0, 0));
            }
            (Err(alone), Err(staged)) => prop_assert_eq!(alone, staged),
            (alone, staged) => prop_assert!(false, "{alone:?} but {staged:?}"),
        }
    }

    #[test]
    fn any_text_of_documents_is_parsed_or_refused(parts in proptest::collection::vec(one_document(), 0..5)) {
        let _ = Stages::parse(&parts.join("\n---\n"), false);
    }
}
