//! A recipe written back and read again is the same recipe, whatever it is.

use proptest::collection::{btree_map, hash_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use recipe::*;

fn words() -> BoxedStrategy<String> {
    // what YAML or the recipe's own syntax could mistake for something else, and any printable text
    let traps = [
        "true",
        "no",
        "null",
        "~",
        "1e-3",
        "0x10",
        "union",
        "base",
        "zero",
        "a@b",
        "a+b",
        "<<",
        "- x",
        "#",
        "é\u{2028}",
    ];
    prop_oneof![prop::sample::select(traps.map(str::to_owned).to_vec()), "[a-z/._-]{1,12}", "\\PC{1,16}"].boxed()
}

fn numbers() -> BoxedStrategy<f64> {
    prop_oneof![
        Just(0.0),
        Just(1e-300),
        Just(1e22),
        (-2.0f64..2.0),
        any::<f64>().prop_filter("finite", |n| n.is_finite()),
    ]
    .boxed()
}

fn models() -> BoxedStrategy<ModelRef> {
    let plain =
        || (words(), option::of(words())).prop_map(|(path, revision)| ModelRef { revision, ..ModelRef::local(path) });
    (plain(), option::of(plain()), option::of(words()))
        .prop_map(|(model, lora, override_architecture)| ModelRef {
            lora: lora.map(Box::new),
            override_architecture,
            ..model
        })
        .boxed()
}

fn scalars() -> BoxedStrategy<Scalar> {
    prop_oneof![
        any::<bool>().prop_map(Scalar::Bool),
        numbers().prop_map(Scalar::Number),
        words().prop_map(Scalar::Text)
    ]
    .boxed()
}

fn values() -> BoxedStrategy<Value> {
    prop_oneof![scalars().prop_map(Value::Scalar), vec(scalars(), 1..40).prop_map(Value::Gradient)].boxed()
}

fn settings() -> BoxedStrategy<Setting> {
    let condition = (option::of(words()), values()).prop_map(|(filter, value)| Condition { filter, value });
    prop_oneof![values().prop_map(Setting::Plain), vec(condition, 1..4).prop_map(Setting::Conditional)].boxed()
}

fn parameters() -> BoxedStrategy<Parameters> {
    btree_map(words(), settings(), 0..3).boxed()
}

fn input_models() -> BoxedStrategy<Vec<InputModel>> {
    vec((models(), parameters()).prop_map(|(model, parameters)| InputModel { model, parameters }), 1..4).boxed()
}

fn layer_ranges() -> BoxedStrategy<LayerRange> {
    (0..limits::LAYERS_MAX)
        .prop_flat_map(|start| (Just(start), start..=limits::LAYERS_MAX))
        .prop_map(|(start, end)| LayerRange { start, end })
        .boxed()
}

fn output_slices() -> BoxedStrategy<Vec<OutputSlice>> {
    let source = (models(), layer_ranges(), parameters()).prop_map(|(model, layer_range, parameters)| InputSlice {
        model,
        layer_range,
        parameters,
    });
    let slice = (vec(source, 1..3), option::of(models()), parameters())
        .prop_map(|(sources, base_model, parameters)| OutputSlice { sources, base_model, parameters });
    vec(slice, 1..3).boxed()
}

fn contents() -> BoxedStrategy<Content> {
    let of_module =
        prop_oneof![input_models().prop_map(ModuleContent::Models), output_slices().prop_map(ModuleContent::Slices)];
    let module = (of_module, parameters()).prop_map(|(content, parameters)| ModuleRecipe { content, parameters });
    prop_oneof![
        input_models().prop_map(Content::Models),
        output_slices().prop_map(Content::Slices),
        hash_map(words(), module, 1..3).prop_map(|modules| Content::Modules(modules.into_iter().collect())),
    ]
    .boxed()
}

fn token_sources() -> BoxedStrategy<TokenSource> {
    prop_oneof![
        models().prop_map(TokenSource::Model),
        Just(TokenSource::Zero),
        (models(), words()).prop_map(|(model, token)| TokenSource::ModelToken {
            model,
            token: Some(token),
            token_id: None
        }),
        (models(), any::<u32>()).prop_map(|(model, id)| TokenSource::ModelToken {
            model,
            token: None,
            token_id: Some(id)
        }),
    ]
    .boxed()
}

fn tokenizers() -> BoxedStrategy<TokenizerRecipe> {
    let source = prop_oneof![
        Just(TokenizerSource::Union),
        Just(TokenizerSource::Base),
        models().prop_map(TokenizerSource::Model)
    ];
    let token = (option::of(token_sources()), any::<bool>()).prop_map(|(source, force)| TokenRecipe { source, force });
    (source, hash_map(words(), token, 0..3), option::of(1..=u32::MAX))
        .prop_map(|(source, tokens, pad_to_multiple_of)| TokenizerRecipe {
            source,
            tokens: tokens.into_iter().collect(),
            pad_to_multiple_of,
        })
        .boxed()
}

fn dtypes() -> BoxedStrategy<FloatDtype> {
    prop::sample::select(vec![FloatDtype::Float32, FloatDtype::Float16, FloatDtype::Bfloat16]).boxed()
}

fn options() -> BoxedStrategy<Options> {
    let count = || option::of(0..9_000_000_000_000_000u64);
    let options = (any::<[bool; 7]>(), count(), count()).prop_map(|(flags, out_shard_size, random_seed)| Options {
        allow_crimes: flags[0],
        allow_non_finite: flags[1],
        allow_missing_tensors: flags[2],
        copy_tokenizer: flags[3],
        write_model_card: flags[4],
        unsafe_truncate_embeddings: flags[5],
        advice: flags[6],
        out_shard_size,
        random_seed,
        unknown_tensors: UnknownTensors::Error,
    });
    let unknown = prop::sample::select(vec![UnknownTensors::Error, UnknownTensors::Copy]);
    (options, unknown).prop_map(|(options, unknown_tensors)| Options { unknown_tensors, ..options }).boxed()
}

fn recipes() -> BoxedStrategy<Recipe> {
    let method = words().prop_filter("known to be refused", |name| name != "moe");
    let head = (method, contents(), option::of(models()), parameters());
    let tail = (
        option::of(dtypes()),
        option::of(dtypes()),
        option::of(tokenizers()),
        option::of(words()),
        option::of(words()),
    );
    (head, tail, options(), any::<bool>())
        .prop_map(|(head, tail, options, lenient)| Recipe {
            merge_method: head.0,
            content: head.1,
            base_model: head.2,
            parameters: head.3,
            dtype: tail.0,
            out_dtype: tail.1,
            tokenizer: tail.2,
            chat_template: tail.3,
            name: tail.4,
            options,
            lenient,
            positions: Positions::default(),
            warnings: Vec::new(),
        })
        .boxed()
}

/// The recipe without where it stood and what was said of it.
fn bare(recipe: Recipe) -> Recipe {
    Recipe { positions: Positions::default(), warnings: Vec::new(), ..recipe }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() })]

    /// As text, and as the JSON object of a request.
    #[test]
    fn a_recipe_written_and_read_is_the_same(recipe in recipes()) {
        let text = serde_json::to_string(&recipe).unwrap();
        let parsed = Recipe::parse(&text, false).map_err(|refusal| TestCaseError::fail(format!("{refusal}\n{text}")))?;
        prop_assert_eq!(bare(parsed), recipe.clone(), "{}", text);
        let value = serde_json::to_value(&recipe).unwrap();
        let parsed = Recipe::from_json(&value, false).map_err(|refusal| TestCaseError::fail(format!("{refusal}\n{text}")))?;
        prop_assert_eq!(bare(parsed), recipe);
    }

    /// Text of any kind gives a recipe or a refusal with at least one problem.
    #[test]
    fn no_text_makes_the_parser_panic(text in "(merge_method: [a-z]{1,8}\n)?(models|slices|modules|experts|parameters|tokenizer): \\PC{0,60}\n(\\PC{0,20}\n){0,4}") {
        if let Err(refusal) = Recipe::parse(&text, false) {
            prop_assert!(!refusal.problems.is_empty());
        }
    }
}
