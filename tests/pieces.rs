//! Embeddings and heads in pieces, in order and in another: the bits of whole ones; files that lack a piece or name a row that is not there are refused.

use brooklet::artifact::Content;
use brooklet::kernels;
use brooklet::kernels::quant::Format;
use brooklet::ops::Op;
use brooklet::{Error, OpFault};
use brooklet_quantize::graph::{Card, Graph, Input, Output, Role, Values};
use brooklet_quantize::passes::{cut_projections, cut_tables, order_of_use};
use brooklet_quantize::{Cache, CacheFormat, Checkpoint, Recipe, StateFormat, families, lower};
use brooklet_tests::{File, Sequence, family_fixtures, stream};

const CACHE: Cache = Cache { context: 128, sink: None, format: CacheFormat::Int8 };

fn write(graph: &Graph<'_>, format: Format) -> File {
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("model.brook");
    let recipe = Recipe { format, embedding: Some(format), state: StateFormat::F32, cache: CACHE };
    lower::write_graph(graph, &recipe, &path, &mut |_| {}).unwrap();
    File::new(&std::fs::read(path).unwrap())
}

#[test]
fn pieces_of_one_format_give_the_bits_of_the_whole() {
    let (mut cut, mut cut_projections_of_all) = (0, 0);
    for dir in family_fixtures() {
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let whole = families::build(&checkpoint).unwrap();
        let mut graph = families::build(&checkpoint).unwrap();
        let projections = cut_projections(&mut graph, 1);
        let count = cut_tables(&mut graph, 1, None);
        cut_projections_of_all += projections;
        if !matches!(graph.input, Input::Tokens { .. }) {
            continue;
        }
        assert!(count > 0 && graph.tensors.len() > whole.tensors.len() && !graph.head_matrix().is_empty(), "{}", dir.display());
        // Tied tables stay tied.
        assert_eq!(graph.embedding() == graph.head_matrix(), whole.embedding() == whole.head_matrix(), "{}", dir.display());
        let input = Sequence::open(&dir);
        // A table of levels is part of Q4's bytes and the same for all pieces, so that rows are rounded alike.
        for format in [Format::F32, Format::Q4, Format::Q8] {
            let run = |file: &File| stream(&file.model(), kernels::detect(), &input, 16).into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let (a, b) = (write(&whole, format), write(&graph, format));
            assert!(run(&a) == run(&b), "{} in {}", dir.display(), format.name());
            // Values lie elsewhere in the frame where a projection is cut, whose scratch differs a little.
            let sheet = |file: &File| {
                let model = file.model();
                (model.state_bytes(), model.plan().macs_per_step)
            };
            assert_eq!(sheet(&a), sheet(&b), "{}", dir.display());
            let in_pieces = |file: &File| {
                let model = file.model();
                model.header().program.iter().map_while(|op| op).filter(|op| op.is_in_pieces(model.artifact())).count()
            };
            assert_eq!((in_pieces(&a), in_pieces(&b)), (0, 2), "{}", dir.display());
        }
        cut += 1;
    }
    assert!(cut >= 10 && cut_projections_of_all >= 10, "{cut} {cut_projections_of_all}");
}

#[test]
fn tables_in_another_order_give_the_bits_of_the_whole() {
    for dir in family_fixtures() {
        let checkpoint = Checkpoint::open(&dir).unwrap();
        let whole = families::build(&checkpoint).unwrap();
        let Input::Tokens { vocab, .. } = whole.input else { continue };
        let mut graph = families::build(&checkpoint).unwrap();
        let text: Vec<u32> = (0..4000).map(|i| i * i % 97 % vocab).collect();
        let order = order_of_use(vocab as usize, &text);
        assert!(!order.is_sorted());
        cut_tables(&mut graph, 1, Some(&order));
        let input = Sequence::open(&dir);
        let run = |file: &File| {
            [1, 16].map(|chunk| stream(&file.model(), kernels::detect(), &input, chunk).into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let (a, b) = (write(&whole, Format::Q8), write(&graph, Format::Q8));
        assert!(run(&a) == run(&b), "{}", dir.display());
    }
}

#[test]
fn places_are_of_two_bytes_where_these_are_enough() {
    const D_MODEL: usize = 8;
    for vocab in [1 << 16, (1 << 16) + 48] {
        let build = || {
            let input = Input::Tokens { vocab: vocab as u32, bos: None, eos: None };
            let mut graph = Graph::new(Card::default(), input, Output::Logits(vocab as u32));
            // Every row is another.
            let rows = move || Ok((0..vocab * D_MODEL).map(|i| (i / D_MODEL * (i % D_MODEL + 1)) as f32 / 65536.0).collect());
            let table = graph.matrix("table", vocab, D_MODEL, Role::Embedding, rows);
            let x = graph.embed(table, D_MODEL, 1.0);
            graph.head(table, None, x, 1.0);
            graph
        };
        let (whole, mut graph) = (build(), build());
        cut_tables(&mut graph, 1, Some(&(0..vocab as u32).rev().collect::<Vec<_>>()));
        let input = Sequence::Tokens([0, 1, 4097, vocab - 2, vocab - 1].map(|token| token as u32).to_vec());
        let (a, b) = (write(&whole, Format::F32), write(&graph, Format::F32));
        let run = |file: &File| stream(&file.model(), kernels::detect(), &input, 1);
        assert!(run(&a) == run(&b));
        let model = b.model();
        let section = model.artifact().section(0).unwrap();
        let bytes = model.artifact().bytes_of(&section).unwrap().len();
        assert_eq!((section.content, bytes), (Content::Places, if vocab > 1 << 16 { 4 * vocab } else { 2 * vocab }));
    }
}

#[test]
fn a_heads_bias_goes_with_its_rows() {
    let dir = family_fixtures().into_iter().find(|dir| dir.ends_with("mamba-a")).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let with_bias = || {
        let mut graph = families::build(&checkpoint).unwrap();
        let Input::Tokens { vocab, .. } = graph.input else { unreachable!() };
        let bias = graph.array("bias", (0..vocab).map(|i| i as f32).collect());
        let Some(Op::Head(head)) = graph.ops.last_mut() else { unreachable!() };
        head.bias = Some(bias);
        (graph, vocab)
    };
    let ((whole, vocab), (mut graph, _)) = (with_bias(), with_bias());
    cut_tables(&mut graph, 1, Some(&(0..vocab).rev().collect::<Vec<_>>()));
    let input = Sequence::open(&dir);
    let run = |graph: &Graph<'_>| stream(&write(graph, Format::Q8).model(), kernels::detect(), &input, 1);
    assert_eq!(run(&whole), run(&graph));
}

#[test]
fn a_place_that_is_not_there_is_refused() {
    let dir = family_fixtures().into_iter().find(|dir| dir.ends_with("mamba-a")).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let recipe = Recipe { format: Format::Q8, embedding: None, state: StateFormat::F32, cache: CACHE };
    for bad in 0..3 {
        let mut graph = families::build(&checkpoint).unwrap();
        let Input::Tokens { vocab, .. } = graph.input else { unreachable!() };
        let order: Vec<u32> = (0..vocab).rev().collect();
        cut_tables(&mut graph, 1, Some(&order));
        let first = graph.embedding().start;
        let mut places = graph.places_of(first).unwrap().to_vec();
        match bad {
            0 => places[3] = vocab,
            1 => places.push(0),
            _ => drop(places.pop()),
        }
        let decl = &mut graph.tensors[first - 1];
        (decl.rows, decl.values) = (places.len(), Values::Places(places.into()));
        let out = tempfile::tempdir().unwrap();
        let error = lower::write_graph(&graph, &recipe, &out.path().join("model.brook"), &mut |_| {}).unwrap_err();
        assert!(matches!(error, brooklet_quantize::Error::Runtime(Error::Op { fault: OpFault::Shape, .. })), "{error}");
    }
}

#[test]
fn a_table_that_ends_too_soon_is_refused() {
    let dir = family_fixtures().into_iter().find(|dir| dir.ends_with("mamba-a")).unwrap();
    let checkpoint = Checkpoint::open(&dir).unwrap();
    let mut graph = families::build(&checkpoint).unwrap();
    cut_tables(&mut graph, 1, None);
    // The pieces' order is that of the tensors: with another behind the first, columns or rows do not go on.
    let pieces = graph.embedding();
    graph.tensors.swap(pieces.end - 1, pieces.end);
    let out = tempfile::tempdir().unwrap();
    let recipe = Recipe { format: Format::Q8, embedding: None, state: StateFormat::F32, cache: CACHE };
    let error = lower::write_graph(&graph, &recipe, &out.path().join("model.brook"), &mut |_| {}).unwrap_err();
    assert!(matches!(error, brooklet_quantize::Error::Runtime(Error::Op { fault: OpFault::Shape | OpFault::Tensor, .. })), "{error}");
}
