//! The stack that each kernel program needs on its deepest chain of calls.
//!
//! Kernels before 6.8 take each function's frame in steps of 32 bytes, and all refuse a program whose deepest chain needs more than 512
//! (`check_max_stack_depth` in `kernel/bpf/verifier.c`). The machine that builds the objects may have a newer kernel.

use aya_obj::generated::bpf_insn;
use aya_obj::{Object, ProgramSection};
use std::collections::{BTreeMap, HashSet};
use std::path::Path;

const STACK_BYTES_MAX: u32 = 512;
const FRAME_STEP: u32 = 32;
/// Of programs that newer kernels alone get.
const FRAME_STEP_LATER: u32 = 16;

const CALL: u8 = 0x85;
const ADD_CONSTANT: u8 = 0x07;
/// The source register of a call that goes to another function of the program, instead of to a helper.
const OF_PROGRAM: u8 = 1;
const FRAME: u8 = 10;

/// A function's frame in bytes, and the instructions at which those begin that it calls.
#[derive(Default)]
struct Function {
    frame: u32,
    calls: Vec<usize>,
}

/// The functions of a linked program, by their first instruction.
fn functions(program: &[bpf_insn]) -> BTreeMap<usize, Function> {
    let target = |(at, instruction): (usize, &bpf_insn)| {
        let is_call = instruction.code == CALL && instruction.src_reg() == OF_PROGRAM;
        is_call.then(|| at.wrapping_add_signed(instruction.imm as isize + 1))
    };
    let mut functions: BTreeMap<usize, Function> = BTreeMap::new();
    functions.insert(0, Function::default());
    for called in program.iter().enumerate().filter_map(target) {
        functions.entry(called).or_default();
    }
    for (at, instruction) in program.iter().enumerate() {
        let Some((_, function)) = functions.range_mut(..=at).next_back() else { continue };
        function.frame = function.frame.max(reach(instruction));
        function.calls.extend(target((at, instruction)));
    }
    functions
}

/// How far below the frame's end an instruction reaches: by its offset from the register that points there, or by what it takes off a copy of that register.
fn reach(instruction: &bpf_insn) -> u32 {
    const CLASS: u8 = 0x07;
    const LOAD: u8 = 0x01;
    const STORES: [u8; 2] = [0x02, 0x03];
    let class = instruction.code & CLASS;
    let is_in_frame =
        class == LOAD && instruction.src_reg() == FRAME || STORES.contains(&class) && instruction.dst_reg() == FRAME;
    let below = match instruction.code {
        _ if is_in_frame => -i32::from(instruction.off),
        ADD_CONSTANT if instruction.imm.unsigned_abs() <= STACK_BYTES_MAX => -instruction.imm,
        _ => 0,
    };
    u32::try_from(below).unwrap_or(0)
}

/// The bytes of the deepest chain of calls from the function at `first`, and where its functions begin.
fn deepest(functions: &BTreeMap<usize, Function>, first: usize, step: u32) -> (u32, Vec<usize>) {
    let function = &functions[&first];
    let below = function.calls.iter().map(|called| deepest(functions, *called, step));
    let (bytes, chain) = below.max_by_key(|(bytes, _)| *bytes).unwrap_or_default();
    let own = function.frame.max(1).next_multiple_of(step);
    (own + bytes, [vec![first], chain].concat())
}

#[test]
fn no_chain_of_calls_needs_more_stack_than_older_kernels_give() {
    let objects = Path::new(env!("CARGO_MANIFEST_DIR")).join("objects");
    let mut seen = 0;
    for architecture in ["x86_64", "aarch64"] {
        for file in objects.join(architecture).read_dir().unwrap() {
            let path = file.unwrap().path();
            let mut object = Object::parse(&std::fs::read(&path).unwrap()).unwrap();
            let sections: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
            object.relocate_calls(&sections).unwrap();
            for (name, program) in &object.programs {
                let functions = functions(&object.functions[&program.function_key()].instructions);
                // They are not attached before Linux 6.9.
                let is_later = matches!(program.section, ProgramSection::FExit { .. });
                let (bytes, chain) = deepest(&functions, 0, if is_later { FRAME_STEP_LATER } else { FRAME_STEP });
                let frames: Vec<u32> = chain.iter().map(|first| functions[first].frame).collect();
                assert!(bytes <= STACK_BYTES_MAX, "{name} of {}: {bytes} bytes in frames {frames:?}", path.display());
                seen = seen.max(bytes);
            }
        }
    }
    assert!(
        seen > STACK_BYTES_MAX / 2,
        "the deepest chain of all has but {seen} bytes: this test does not see what it should"
    );
}
