//! Files that are made to harm: each is refused with a reason, and nothing of it is run or allocated.

#![expect(clippy::unwrap_used, reason = "a step that fails is a failed test, and the panic says where")]

mod made;

use checkpoint::{TorchFile, limits};
use made::{Entry, archive, archive_64, legacy, tensor, torch};

fn refusal(bytes: &[u8]) -> String {
    TorchFile::read(&bytes, "x.bin").unwrap_err().to_string()
}

#[track_caller]
fn assert_refused(pickle: &[u8], expected: &str) {
    let error = refusal(&torch(pickle));
    assert!(error.contains(expected), "{}: {error}", pickle[..pickle.len().min(80)].escape_ascii());
}

#[test]
fn a_sound_pickle_is_read() {
    let file = TorchFile::read(&torch(&tensor(0, &[2, 3], &[3, 1])).as_slice(), "x.bin").unwrap();
    assert_eq!((file.tensors[0].name.as_str(), file.tensors[0].bytes), ("w", 24));
}

#[test]
fn no_global_but_those_of_tensors_is_known() {
    let cases: [(&[u8], &str); 7] = [
        (
            b"\x80\x02cos\nsystem\nX\x02\0\0\0id\x85R.",
            r#"names "os.system", which tensors do not need; nothing of it was run. It stands at byte 2"#,
        ),
        (b"\x80\x02cposix\nsystem\n.", "posix.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.", "builtins.eval"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\n.", "torch.storage._load_from_bytes"),
        (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2.__globals__\n.", "__globals__"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x04K\x01K\x02\x93.", "by what is no text"),
    ];
    cases.iter().for_each(|(pickle, expected)| assert_refused(pickle, expected));
}

#[test]
fn a_global_that_hides_behind_others_is_still_refused() {
    let mut name = b"\x80\x02cos\nsys".to_vec();
    name.extend([b'x'; 5000]);
    assert_refused(&name, "names a global without end");
    let shadowed = b"\x80\x02cos\nsystem\ncollections\nOrderedDict\n)R.";
    assert_refused(shadowed, "os.system");
    assert_refused(b"\x80\x02ccollections\r\nOrderedDict\r\n)R.", r"collections\r.OrderedDict\r");
}

#[test]
fn no_opcode_makes_objects() {
    let cases: [(&[u8], &str); 9] = [
        (b"\x80\x02(ios\nsystem\n.", "opcode INST"),
        (b"\x80\x02(ccollections\nOrderedDict\no.", "opcode OBJ"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "opcode NEWOBJ"),
        (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "opcode NEWOBJ"),
        (b"\x80\x02\x82\x01.", "opcode EXT"),
        (b"\x80\x02Pid\n.", "opcode PERSID"),
        (b"\x80\x02(I1\n.", "opcode 0x49"),
        (b"\x80\x00.", "protocol 0"),
        (b"\x80\xff.", "protocol 255"),
    ];
    cases.iter().for_each(|(pickle, expected)| assert_refused(pickle, expected));
}

#[test]
fn state_is_set_on_dictionaries_alone() {
    assert_refused(b"\x80\x02ctorch\nFloatStorage\n}b.", "sets the state of what is no dictionary");
    assert_refused(b"\x80\x02]}b.", "sets the state of what is no dictionary");
    assert_refused(b"\x80\x02ccollections\nOrderedDict\n}b.", "sets the state of what is no dictionary");
}

#[test]
fn functions_are_called_with_what_fits_them() {
    let cases: [(&[u8], &str); 6] = [
        (b"\x80\x02X\x01\0\0\0a)R.", "calls what is no function"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "that do not fit it"),
        (b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", "that do not fit it"),
        (b"\x80\x02ccollections\nOrderedDict\n]R.", "without a tuple"),
        (b"\x80\x02ctorch._utils\n_rebuild_parameter\n}NN\x87R.", "of what is no tensor"),
        (b"\x80\x02(X\x07\0\0\0storagecos\nsystem\ntQ.", "os.system"),
    ];
    cases.iter().for_each(|(pickle, expected)| assert_refused(pickle, expected));
}

#[test]
fn the_stack_gives_no_more_than_it_has() {
    for pickle in [&b"\x80\x02."[..], b"\x80\x02R.", b"\x80\x02q\0.", b"\x80\x02K\x01\x86."] {
        assert_refused(pickle, "takes a value that is not there");
    }
    assert_refused(b"\x80\x02]}(0.", "takes a value that is not there");
    assert_refused(b"\x80\x02t.", "no mark");
    assert_refused(b"\x80\x02K\x01(\x85.", "takes a value that is not there");
    assert_refused(b"\x80\x02h\x05.", "recalls 5, which was never remembered");
    assert_refused(b"\x80\x02K\x01K\x02a.", "fills what is no list");
    assert_refused(b"\x80\x02}K\x01s.", "fills what is no list");
    assert_refused(b"\x80\x02}(K\x01u.", "a key without a value");
    assert_refused(b"\x80\x02}", "wants 1 bytes more than it has");
    assert_refused(b"", "wants 1 bytes more than it has");
}

#[test]
fn lengths_are_not_believed() {
    assert_refused(b"\x80\x02X\xff\xff\xff\xffa.", "wants 4294967295 bytes more than it has");
    assert_refused(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffa.", "bytes more than it has");
    assert_refused(b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.", "bytes more than it has");
    assert_refused(b"\x80\x02\x8a\xffa.", "wants 255 bytes");
    assert_refused(b"\x80\x04\x8e\xff\xff\xff\xff\0\0\0\0.", "bytes more than it has");
    assert_refused(b"\x80\x02X\x02\0\0\0\xff\xfe.", "no UTF-8");
}

#[test]
fn what_grows_has_an_end() {
    let times = |unit: &[u8], count: usize| [b"\x80\x02", unit.repeat(count).as_slice(), b"."].concat();
    assert_refused(&times(b"(", limits::PICKLE_DEPTH_MAX + 1), "nested deeper than");
    assert_refused(&times(b"N", limits::PICKLE_STACK_MAX + 1), "values on its stack");
    assert_refused(&times(b"]0", limits::PICKLE_OBJECTS_MAX + 1), "objects at byte");
    assert_refused(&times(b"N0", limits::PICKLE_STEPS_MAX / 2 + 1), "opcodes at byte");
}

/// Doubling tuples stand for 2^200 values in a few bytes, and lists may hold themselves: neither is ever walked.
#[test]
fn bombs_and_cycles_cost_nothing() {
    let mut doubling = b"\x80\x04)\x94".to_vec();
    for depth in 0..200u8 {
        doubling.extend([b'h', depth, b'h', depth, 0x86, 0x94]);
    }
    doubling.push(b'.');
    assert_refused(&doubling, "holds a tuple, not a dictionary");
    assert_refused(b"\x80\x02]q\0h\0a}X\x01\0\0\0ah\0s.", "holds no tensors");
    assert_refused(b"\x80\x02}q\0X\x01\0\0\0ah\0s.", "entry \"a\" is a dictionary");
}

#[test]
fn a_view_stays_in_its_storage() {
    // the storage has 24 elements
    for (offset, shape, strides) in [
        (0, &[25][..], &[1][..]),
        (1, &[24], &[1]),
        (0, &[2, 2], &[23, 1]),
        (i32::MAX, &[1], &[1]),
        (0, &[i32::MAX, i32::MAX, i32::MAX], &[0, 0, 0]),
        (0, &[2], &[i32::MAX]),
    ] {
        assert_refused(&tensor(offset, shape, strides), "reaches out of its storage");
    }
    assert_refused(&tensor(0, &[2, 2], &[1]), "2 dimensions with 1 strides");
    assert_refused(&tensor(0, &[1; 17], &[1; 17]), "17 dimensions");
    assert_refused(&tensor(-1, &[2], &[1]), "no whole numbers");
    assert_refused(&tensor(0, &[-2], &[1]), "no whole numbers");
    assert_refused(&tensor(0, &[2], &[-1]), "no whole numbers");
}

#[test]
fn names_are_those_that_safetensors_allows_and_each_once() {
    let named = |name: &str| made::named(name, "FloatStorage");
    assert!(TorchFile::read(&torch(&named("x")).as_slice(), "f").is_ok());
    assert_refused(&named("__metadata__"), "which safetensors does not allow");
    assert_refused(&named(""), "which safetensors does not allow");
    let whole = named("w");
    let unfinished = &whole[..whole.len() - 1];
    assert_refused(&[unfinished, &whole[3..]].concat(), "entry \"w\" occurs twice");
}

#[test]
fn a_zip_lies_in_no_way() {
    let pickle = tensor(0, &[24], &[1]);
    let data = [1; 96];
    let whole = [Entry::new("a/data.pkl", &pickle), Entry::new("a/data/0", &data)];
    assert!(TorchFile::read(&archive(&whole).as_slice(), "x.bin").is_ok());

    type Change = fn(&mut Entry<'_>);
    let cases: [(Change, &str); 9] = [
        (|e| e.method = 8, "is compressed or encrypted"),
        (|e| e.flags = 1, "is compressed or encrypted"),
        (|e| e.local_name = "a/data/1", "has another name where it is stored"),
        (|e| e.size = Some(95), "has 95 bytes, too few for 24 elements"),
        (|e| e.size = Some(97), "overlaps another or the directory"),
        (|e| e.size = Some(1 << 20), "is longer than the file"),
        (|e| e.size = Some(u32::MAX), "zip64 numbers are missing"),
        (|e| e.header = Some(0), "has another name where it is stored"),
        (|e| e.header = Some(u32::MAX - 1), "leads out of its file"),
    ];
    for (change, expected) in cases {
        let mut entries = whole.clone();
        change(&mut entries[1]);
        let error = refusal(&archive(&entries));
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn numbers_of_64_bits_are_read_where_those_of_32_do_not_fit() {
    let pickle = tensor(0, &[24], &[1]);
    let entries = [Entry::new("a/data.pkl", &pickle), Entry::new("a/data/0", &[1; 96])];
    let sound = archive_64(&entries);
    let plain = archive(&entries);
    let read = |bytes: &[u8]| TorchFile::read(&bytes, "x.bin").unwrap();
    assert_eq!(read(&sound), read(&plain));
    // the locator is 20 bytes before the end record of 22, the record that it leads to 56 before that
    for (from_end, expected) in [(34, "leads nowhere"), (42 + 8, "does not fit"), (42 + 24, "directory is too short")] {
        let mut lie = sound.clone();
        let at = lie.len() - from_end;
        lie[at..at + 8].copy_from_slice(&(u64::MAX - 7).to_le_bytes());
        let error = refusal(&lie);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn entries_share_no_bytes_and_no_name() {
    let pickle = tensor(0, &[24], &[1]);
    let data = [1; 96];
    let twice = [Entry::new("a/data.pkl", &pickle), Entry::new("a/data/0", &data), Entry::new("a/data/0", &data)];
    assert!(refusal(&archive(&twice)).contains("occurs twice"));
    // an entry whose content is another's header and content
    let inner = archive(&[Entry::new("a/data/0", &data)]);
    let mut entries =
        [Entry::new("a/data.pkl", &pickle), Entry::new("b", &inner[..100]), Entry::new("a/data/0", &data)];
    let inside = 30 + 10 + pickle.len() + 30 + 1;
    entries[2].header = Some(inside as u32);
    let error = refusal(&archive(&entries));
    assert!(error.contains("overlaps another"), "{error}");
    let two = [Entry::new("a/data.pkl", &pickle), Entry::new("b/data.pkl", &pickle), Entry::new("a/data/0", &data)];
    assert!(refusal(&archive(&two)).contains("more than one data.pkl"));
    assert!(refusal(&archive(&[Entry::new("a/version", b"3")])).contains("without data.pkl"));
    let no_data = [Entry::new("a/data.pkl", &pickle)];
    assert!(refusal(&archive(&no_data)).contains("no entry for storage \"0\""));
    let big = [Entry::new("a/data.pkl", &pickle), Entry::new("a/byteorder", b"big"), Entry::new("a/data/0", &data)];
    assert!(refusal(&archive(&big)).contains("little-endian"));
}

#[test]
fn an_older_file_does_not_contradict_itself() {
    let pickle = tensor(0, &[24], &[1]);
    let read =
        |little: bool, storages: &[(&str, u64)]| TorchFile::read(&legacy(&pickle, little, storages).as_slice(), "x");
    assert_eq!(read(true, &[("0", 24)]).unwrap().tensors[0].bytes, 96);
    type Storages<'a> = &'a [(&'a str, u64)];
    let cases: [(bool, Storages<'_>, &str); 7] = [
        (false, &[("0", 24)], "little-endian"),
        (true, &[("0", 23)], "contradicts itself about storage \"0\""),
        (true, &[("0", 25)], "is cut off"),
        (true, &[("0", u64::MAX / 2)], "is cut off"),
        (true, &[("1", 24)], "that no tensor is in"),
        (true, &[("0", 24), ("0", 24)], "contradicts itself about storage \"0\""),
        (true, &[], "has no bytes for storage \"0\""),
    ];
    for (little, storages, expected) in cases {
        let error = read(little, storages).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn every_cut_is_refused() {
    for name in ["views.bin", "legacy.bin"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pickles").join(name);
        let whole = std::fs::read(path).unwrap();
        assert!(TorchFile::read(&whole.as_slice(), name).is_ok());
        for length in 0..whole.len() {
            assert!(TorchFile::read(&&whole[..length], name).is_err(), "{name} cut to {length} bytes");
        }
    }
}

#[test]
fn what_torch_did_not_write_is_named() {
    assert!(refusal(b"GGUF\x03\0\0\0").contains("neither a file of torch.save nor a pickle"));
    assert!(refusal(b"\x80\x02}.").contains("a pickle that torch.save did not write"));
    assert!(refusal(b"").contains("is empty"));
    assert!(refusal(b"PK\x03\x04").contains("zip without end"));
}
