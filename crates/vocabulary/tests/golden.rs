//! Vocabularies and rows that mergekit 0.1.5 wrote, recomputed from the row maps. Runs where AMALGAM_GOLDEN names the
//! folder of golden outputs.

#![expect(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use recipe::{ModelRef, Recipe, TokenizerRecipe, TokenizerSource};
use serde_json::Value;
use vocabulary::{ChatTemplate, OutputVocabulary, RowSource, Tokenizer, merge, token_ids};

/// Rows of one tensor, in f64.
type Matrix = Vec<Vec<f64>>;

const TENSORS: [&str; 2] = ["model.embed_tokens.weight", "lm_head.weight"];

/// Two roundings to bf16, 2^-8 each: of what is added up, and of the sum. Others are smaller, and errors over a row differ
/// in sign; so this bounds the root mean square of a row's differences, relative to that of the row.
const TOLERANCE: f64 = 1.0 / 128.0;

fn golden() -> Option<PathBuf> {
    let folder = std::env::var_os("AMALGAM_GOLDEN").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: AMALGAM_GOLDEN does not name the folder of golden outputs");
    }
    folder
}

struct Case {
    root: PathBuf,
    out: PathBuf,
    recipe: Recipe,
    models: Vec<ModelRef>,
    merged: OutputVocabulary,
}

impl Case {
    /// Merges the vocabularies of a golden case; `tokenizer` stands in for a recipe without one.
    fn merge(root: &Path, name: &str, tokenizer: Option<TokenizerRecipe>) -> Case {
        let folder = root.join("golden").join(name);
        let text = std::fs::read_to_string(folder.join("config.yml")).unwrap();
        let recipe = Recipe::parse(&text, false).unwrap_or_else(|refusal| panic!("{name}: {refusal}"));
        let models: Vec<ModelRef> = recipe.models().into_iter().map(|(_, m)| m.clone()).collect();
        let tokenizers: Vec<Tokenizer> = models.iter().map(|model| read_tokenizer(root, model)).collect();
        let base = models.iter().position(|m| Some(m) == recipe.base_model.as_ref()).unwrap();
        let wanted = recipe.tokenizer.clone().or(tokenizer).unwrap();
        let merged = merge(&wanted, &tokenizers, base).unwrap_or_else(|error| panic!("{name}: {error}"));
        Case { root: root.to_owned(), out: folder.join("out"), recipe, models, merged }
    }

    fn expected_ids(&self) -> BTreeMap<String, u32> {
        token_ids(&read_json(&self.out.join("tokenizer.json"))).unwrap()
    }

    fn check_tokens(&self) {
        let (ours, theirs) = (token_ids(&self.merged.tokenizer_json).unwrap(), self.expected_ids());
        assert!(ours.keys().eq(theirs.keys()), "{}", self.out.display());
        let config = read_json(&self.out.join("config.json"));
        assert_eq!(Some(u64::from(self.merged.rows)), config["vocab_size"].as_u64(), "{}", self.out.display());
        assert_eq!(self.merged.tokens as usize, ours.len());
    }

    /// Weights as linear uses them, summing to one.
    fn weights(&self) -> Vec<f64> {
        let recipe = serde_json::to_value(&self.recipe).unwrap();
        let listed: BTreeMap<String, f64> = recipe["models"]
            .as_array()
            .unwrap()
            .iter()
            .map(|m| {
                let model: ModelRef = serde_json::from_value(m["model"].clone()).unwrap();
                (model.to_string(), m["parameters"]["weight"].as_f64().unwrap())
            })
            .collect();
        let total: f64 = listed.values().sum();
        self.models.iter().map(|m| listed.get(&m.to_string()).unwrap_or(&0.0) / total).collect()
    }

    /// Returns how many rows were compared.
    fn check_rows(&self, tensor: &str) -> usize {
        let inputs: Vec<Matrix> = self.models.iter().map(|m| read_matrix(&self.root.join(&m.path), tensor)).collect();
        let ours = linear(&self.merged, &inputs, &self.weights());
        let theirs = read_matrix(&self.out, tensor);
        assert_eq!(ours.len(), theirs.len());
        let ids = token_ids(&self.merged.tokenizer_json).unwrap();
        let expected = self.expected_ids();
        let tokens = ids.iter().map(|(token, row)| (token.clone(), *row, expected[token]));
        let padding = (self.merged.tokens..self.merged.rows).map(|row| ("padding".to_owned(), row, row));
        let mut compared = 0;
        for (token, ours_at, theirs_at) in tokens.chain(padding) {
            let difference = distance(&ours[ours_at as usize], &theirs[theirs_at as usize]);
            assert!(difference <= TOLERANCE, "{} {tensor} {token:?}: {difference}", self.out.display());
            compared += 1;
        }
        compared
    }
}

/// Root mean square of the differences, relative to that of the second row.
fn distance(ours: &[f64], theirs: &[f64]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut ours.iter().zip(theirs).map(|(a, b)| a - b));
    if difference == 0.0 { 0.0 } else { difference / norm(&mut theirs.iter().copied()) }
}

fn linear(merged: &OutputVocabulary, inputs: &[Matrix], weights: &[f64]) -> Matrix {
    let aligned: Vec<Matrix> = (0..inputs.len()).map(|model| align(&merged.maps[model], model, inputs)).collect();
    let row = |at: usize| {
        let terms = aligned.iter().zip(weights).map(|(matrix, weight)| (matrix[at].as_slice(), *weight));
        sum(terms, inputs[0][0].len())
    };
    (0..merged.rows as usize).map(row).collect()
}

fn align(map: &[RowSource], model: usize, inputs: &[Matrix]) -> Matrix {
    let width = inputs[model][0].len();
    let row = |source: &RowSource| match source {
        RowSource::Row(row) => Some(inputs[model][*row as usize].clone()),
        RowSource::Of { model, row } => Some(inputs[*model][*row as usize].clone()),
        RowSource::Mean(rows) => Some(mean(rows.iter().map(|(m, r)| inputs[*m][*r as usize].as_slice()), width)),
        RowSource::Zero => Some(vec![0.0; width]),
        RowSource::MeanOfOwn => None,
    };
    let rows: Vec<Option<Vec<f64>>> = map.iter().map(row).collect();
    let padding = mean(rows.iter().flatten().map(Vec::as_slice), width);
    rows.into_iter().map(|row| row.unwrap_or_else(|| padding.clone())).collect()
}

fn mean<'a>(rows: impl Iterator<Item = &'a [f64]> + Clone, width: usize) -> Vec<f64> {
    let share = 1.0 / rows.clone().count() as f64;
    sum(rows.map(|row| (row, share)), width)
}

fn sum<'a>(terms: impl Iterator<Item = (&'a [f64], f64)>, width: usize) -> Vec<f64> {
    let mut total = vec![0.0; width];
    for (row, weight) in terms {
        total.iter_mut().zip(row).for_each(|(t, v)| *t += weight * v);
    }
    total
}

fn read_tokenizer(root: &Path, model: &ModelRef) -> Tokenizer {
    let folder = root.join(&model.path);
    let rows = read_json(&folder.join("config.json"))["vocab_size"].as_u64().unwrap() as u32;
    Tokenizer { model: model.clone(), tokenizer_json: read_json(&folder.join("tokenizer.json")).into(), rows }
}

fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// A bf16 matrix from whichever shard has it: 8 bytes of header length, a JSON header, then the values.
fn read_matrix(folder: &Path, tensor: &str) -> Matrix {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
    let found = files.iter().find_map(|path| {
        let bytes = std::fs::read(path).unwrap();
        let start = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&bytes[8..start]).unwrap();
        header.get(tensor).map(|entry| decode(entry, &bytes[start..]))
    });
    found.unwrap_or_else(|| panic!("{} has no {tensor}", folder.display()))
}

fn decode(entry: &Value, values: &[u8]) -> Matrix {
    assert_eq!(entry["dtype"], "BF16");
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    let range = number(&entry["data_offsets"][0])..number(&entry["data_offsets"][1]);
    let value = |pair: &[u8]| f64::from(f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16));
    let width = number(&entry["shape"][1]);
    values[range].chunks(2 * width).map(|row| row.chunks(2).map(value).collect()).collect()
}

#[test]
fn tokens_and_rows_are_those_of_mergekit() {
    let Some(root) = golden() else { return };
    for name in [
        "vocab-base",
        "vocab-model",
        "vocab-pad",
        "vocab-tokens",
        "vocab-union",
        "vocab-template",
        "vocab-ties-union",
        "vocab-slerp-base",
    ] {
        Case::merge(&root, name, None).check_tokens();
    }
}

#[test]
fn linear_merges_of_aligned_rows_are_those_of_mergekit() {
    let Some(root) = golden() else { return };
    for name in ["vocab-base", "vocab-model", "vocab-pad", "vocab-tokens", "vocab-union", "vocab-template"] {
        let case = Case::merge(&root, name, None);
        for tensor in TENSORS {
            assert_eq!(case.check_rows(tensor), case.merged.rows as usize, "{name}");
        }
    }
}

/// mergekit cuts the longer matrix with a flag; the tokenizer of the base says the same here.
#[test]
fn source_base_drops_the_padding_that_truncation_cuts() {
    let Some(root) = golden() else { return };
    let base = TokenizerRecipe { source: TokenizerSource::Base, tokens: Vec::new(), pad_to_multiple_of: None };
    let case = Case::merge(&root, "vocab-truncate", Some(base));
    case.check_tokens();
    for tensor in TENSORS {
        assert_eq!(case.check_rows(tensor), 384);
    }
}

/// As transformers renders: blocks take the line they stand on.
fn render(template: &str, add_generation_prompt: bool) -> String {
    let mut environment = minijinja::Environment::new();
    let syntax = minijinja::syntax::SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().unwrap();
    environment.set_syntax(syntax);
    let message = |role, content| minijinja::Value::from_pairs([("role", role), ("content", content)]);
    let messages = vec![message("system", "Be brief."), message("user", "Hi"), message("assistant", "Hello!")];
    environment.render_str(template, minijinja::context! { messages, add_generation_prompt }).unwrap()
}

#[test]
fn the_chatml_template_writes_what_that_of_mergekit_writes() {
    let Some(root) = golden() else { return };
    let theirs = std::fs::read_to_string(root.join("golden/vocab-template/out/chat_template.jinja")).unwrap();
    let ChatTemplate::Text(ours) = ChatTemplate::parse("chatml").unwrap() else { panic!("chatml is no text") };
    for prompt in [false, true] {
        assert_eq!(render(&ours, prompt), render(&theirs, prompt));
    }
}
