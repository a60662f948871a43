"""Faults for the numerics suite to find: one replacement of text each, in a template, the emitter, the mask analysis or a transform."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """`old` occurs once in the symbol `where` and becomes `new`. An equivalent one says why nothing can tell it apart.

    `where` is a function, a class or a table at the top of a module or a function of templates/lib, a method as `Class.method`, or the file
    name of a template. In which folder a module stands makes no difference.
    `first` names the check of the suite that should find it: it runs before the others, or alone for an equivalent one.
    A folder, a file of tests or one test of a file, such as `OF_SCHEDULES`, is a suite of its own.
    """

    name: str
    where: str
    old: str
    new: str
    first: str = ""
    equivalent: str = ""


OF_SCHEDULES = "tests/schedule"
OF_ENGINE = "tests/engine/test_cpu_kernel.py"
OF_LIBRARY = "tests/engine/test_library.py"
OF_PIECES = "tests/kernel/test_feature_tiling.py"
OF_PRODUCTS = "tests/kernel/rewrites/test_join_dots.py"
OF_MASKS = "tests/ir/test_masks.py"
OF_REACH = "tests/plan/test_short_captures.py"
OF_TILES = "tests/report/test_mask_tiles.py"
OF_CLASSES = "tests/plan/test_dilated.py"
OF_FORMS = "tests/kernel/test_prefetched_dots.py"
OF_BIASES = "tests/kernel/rewrites/test_bias_separation.py"
OF_PLACES = "tests/calls/test_following.py"
_AHEAD = "test_folded_biases_go_ahead_with_their_products"
OF_ONE_WALK = "tests/kernels/test_fused.py"
OF_PARTS = "tests/kernels/test_parts.py"
OF_FOLDERS = "tests/deploy/test_write.py::test_what_attngen_did_not_write_is_refused_and_stays"
OF_CHECKS = "tests/deploy/test_check.py::test_what_was_done_to_a_folder_is_seen"
OF_STORES = "tests/cache/test_store.py::TestSwapped"
OF_STRICT = "tests/runtime/test_strict.py::test_classes_of_lengths_take_the_tiles_of_long_ones"
OF_COMMANDS = "tests/runtime/test_strict.py::test_the_command_of_the_message_is_enough"
_LISTED = "another_file_that_is_listed"
OF_FORMS_CHECKED = "tests/stages/test_stage_forms.py::test_a_malformed_value_is_a_bug_of_ours_that_is_named"
OF_KINDS = "tests/e2e/test_random_cascades.py::test_kinds"
OF_MAXIMA = "tests/e2e/test_maxima.py"
OF_DELTA = "tests/transform/autodiff/test_precise_delta.py"
OF_REFUSALS = "tests/toolchain/test_refusals.py"
OF_MISTAKES = "tests/e2e/test_mistakes.py"
OF_TRANSFORMERS = "tests/e2e/test_transformers.py"
OF_INDEXERS = f"{OF_TRANSFORMERS}::test_keys_that_an_indexer_chose_meet_the_mask"
OF_SPECIALISED = "tests/kernels/test_specialised.py::test_lengths"
_ABSENT = "tests/kernels/test_absent.py"
OF_ABSENT = f"{_ABSENT}::test_what_is_not_there_does_not_count"
OF_ENDS = f"{_ABSENT}::test_masks_that_are_an_end"
OF_ZEROS = "tests/emit/test_known_zero.py"

OF_POINTWISE = "tests/e2e/test_pointwise.py"
OF_DERIVATIVES = "tests/transform/autodiff/test_rules.py"

MUTANTS = (
    # Pointwise functions.
    Mutant(
        "a product that is added twice shares an accumulator",
        "chains",
        "own = times == 1 and ",
        "own = ",
        first=f"{OF_POINTWISE}::test_a_sum_of_two_products_counts_its_terms",
    ),
    Mutant(
        "the whole gradient to both of two equal sides",
        "_shared",
        'half = apply("eq", a, b), mul(d, const(0.5))',
        'half = apply("eq", a, b), d',
        first=OF_DERIVATIVES,
    ),
    Mutant("no gradient at the upper bound of a clamp", "_clamp", 'apply("le", a, high)', 'apply("lt", a, high)', first=OF_DERIVATIVES),
    Mutant(
        "a gradient at the bounds of hardtanh",
        "_hardtanh",
        'apply("or", apply("le", a, low)',
        'apply("or", apply("lt", a, low)',
        first=OF_DERIVATIVES,
    ),
    Mutant("the logarithm of 0 in the gradient of an exponent", "_pow", "_unless(zero, to_power)", "to_power", first=OF_DERIVATIVES),
    Mutant(
        "odd powers of negative numbers without a sign",
        "power",
        "tl.where(odd, -result,",
        "tl.where(odd, result,",
        first=f"{OF_POINTWISE}::test_powers",
    ),
    Mutant(
        "powers of whole numbers in 32 bits", "int_power", "tl.int64), {size}", "tl.int32), {size}", first=f"{OF_POINTWISE}::test_powers"
    ),
    Mutant(
        "casts that round nothing",
        "narrow",
        "x.to(tl.float32).to(TYPE)",
        "x.to(tl.float32)",
        first=f"{OF_POINTWISE}::test_casts_round_values_and_gradients",
    ),
    Mutant(
        "a gradient that no cast rounds",
        "RULES",
        '(apply("float16", d),)',
        "(d,)",
        first=f"{OF_POINTWISE}::test_casts_round_values_and_gradients",
    ),
    Mutant(
        "narrow numbers that do not wrap",
        "pointwise",
        'if kind_of(expr) == "int" and wraps(name)',
        'if wraps("where")',
        first=f"{OF_POINTWISE}::test_narrow_integers_in_masks",
    ),
    Mutant(
        "constants of kernels in fp32",
        "Printer.numbers",
        "wide = expr.op not in _INFIX and self.is_constant(arg)",
        "wide = False",
        first="tests/kernels/test_expressions.py",
    ),
    Mutant(
        "small arguments of a tanh that lose their digits",
        "tanh_small",
        "tl.abs(x) < 0.02",
        "tl.abs(x) < 0.0",
        first=f"{OF_POINTWISE}::test_softcaps_at_half_precision",
    ),
    Mutant("halves rounded up", "rint", "((rest == 0.5) & odd)", "(rest == 0.5)", first=f"{OF_POINTWISE}::test_jumps"),
    Mutant(
        "logarithms of 1 + x without what that rounds away",
        "log1p",
        "(x / tl.where(exact, 1.0, rest))",
        "1.0",
        first=f"{OF_POINTWISE}::test_smooth_functions",
    ),
    # Delta from the weights.
    Mutant(
        "delta with the rounding of the saved logsumexp",
        "_Exchange.term",
        "total = build.safe_div(total, self.norms[gauge])",
        "total = build.mul(total, build.ONE)",
        first="tests/kernels/test_precision.py::test_steep_gradients_have_digits",
    ),
    Mutant(
        "delta without the factors of the row",
        "_Exchange.term",
        "read(made[-1].name, step.axes), scale)",
        "read(made[-1].name, step.axes), build.ONE)",
        first=OF_DELTA,
    ),
    Mutant(
        "delta of the first term alone",
        "_Exchange.terms",
        "[(a * b, [*left, *right]) for a, left",
        "[(a, [*left, *right]) for a, left",
        first=OF_DELTA,
    ),
    Mutant(
        "steep positions unseen", "_steep_positions", "if varies and _largest_weight(", "if not varies and _largest_weight(", first=OF_DELTA
    ),
    # Options of a layer of transformers.
    Mutant(
        "unknown options are swallowed",
        "_refuse",
        "if name not in _APPLIED and",
        "if name in _APPLIED and",
        first=f"{OF_TRANSFORMERS}::test_what_it_cannot_do_is_refused",
    ),
    Mutant("an indexer's mask alone", "attention_forward", "chosen & seen[keep](mask)", "chosen", first=OF_INDEXERS),
    Mutant(
        "an indexer's -1 is the last key", "_scattered", "torch.where(places < 0, length, places)", "places % length", first=OF_INDEXERS
    ),
    Mutant(
        "a block short of keys",
        "_chosen",
        "-(-keys // size)).repeat",
        "keys // size).repeat",
        first=f"{OF_TRANSFORMERS}::test_blocks_that_an_indexer_chose",
    ),
    # Tiles that do not compile.
    Mutant(
        "refused tiles are taken again",
        "skip_refused",
        "if not (why := refused(kernel.role, rest[0].tile)):",
        "if True:",
        first=OF_REFUSALS,
    ),
    Mutant(
        "measured tiles are never refused", "skip_refused", "if not (why := refused(kernel.role, tile)):", "if True:", first=OF_REFUSALS
    ),
    Mutant("forms are never suspected", "skip_refused", "if not suspect & _form(item.tile)]", "if item]", first=OF_REFUSALS),
    Mutant(
        "a refused fallback stays", "_reason", "if reason.fallback is not None and refused(", "if False and refused(", first=OF_REFUSALS
    ),
    Mutant("refusals are forgotten", "Refusals.add", "        if self._stored:", "        if not self._stored:", first=OF_REFUSALS),
    # Names in errors.
    Mutant(
        "steps without the user's variable",
        "einsum",
        'name or assigned(user_place()) or "einsum(...)"',
        'name or "einsum(...)"',
        first=OF_MISTAKES,
    ),
    # Helper functions of emitted modules.
    Mutant("tail loaded without a mask", "load", "value = tl.load(pointers, mask=ok, other=0)", "value = tl.load(pointers)"),
    Mutant("masks on the wrong loads", "load", "if FULL:", "if not FULL:"),
    Mutant("exp2 without a change of base", "exp_above", "power = (x - floor) * LOG2E", "power = x - floor"),
    Mutant(
        "exp2 without a change of base at half precision",
        "exp_above",
        "tl.cast(LOG2E, x.dtype), -(floor * LOG2E))",
        "tl.cast(LOG2E, x.dtype), -floor)",
        first=f"{OF_BIASES}::test_contract",
    ),
    Mutant("scaled exponents in another base", "exp_scaled", "scale * LOG2E, x.dtype), -(", "scale, x.dtype), -(", first="rounding"),
    Mutant("a number in another base", "exp_lowered", "distance * (rate * LOG2E)", "distance * rate", first=f"{OF_BIASES}::test_contract"),
    Mutant("scaled exponents without their scale", "exp_scaled", "tl.fma(x, tl.full((), scale, x.dtype), -floor)", "(x - floor)"),
    Mutant(
        "a maximum before its scale",
        "Online.weight",
        'f"tl.max({seen}, 1) * {scale}" if scale',
        'f"tl.max({seen}, 1)" if scale',
        first="rounding",
    ),
    Mutant(
        "negative scales in the exponent",
        "_scaled",
        "if not is_positive_constant(part)), None)",
        "if part == build.ZERO), None)",
        first="tests/kernel/rewrites/test_scale_folding.py",
    ),
    Mutant(
        "two parts of a folded bias",
        "_columns",
        "if i + j < _PARTS",
        "if i + j < _PARTS - 1",
        first=f"{OF_BIASES}::test_folded_biases_are_as_exact_as_an_addition",
    ),
    Mutant(
        "terms of rows with the sign they had",
        "with_row_terms",
        "(-sign, over(term, scale))",
        "(sign, over(term, scale))",
        first=f"{OF_BIASES}::test_the_algebra_is_exact",
    ),
    Mutant(
        "maxima measured from what is left",
        "with_row_terms",
        "found is None or kernel.gauges",
        "found is None",
        first=f"{OF_BIASES}::test_the_algebra_is_exact",
    ),
    Mutant(
        "a cosine of a difference",
        "_of_sum",
        'sign = -1.0 if op == "cos" else 1.0',
        "sign = 1.0",
        first=f"{OF_BIASES}::test_the_algebra_is_exact",
    ),
    Mutant(
        "infinities in products",
        "_tame",
        "return _finite(factor) if _is_centered(factor) else factor",
        "return factor",
        first=f"{OF_BIASES}::test_infinite_biases_exclude_what_they_did",
    ),
    Mutant(
        "a maximum without its shift",
        "Online.weight",
        'f"{largest} + {shift}" if shift',
        "largest if shift",
        first=f"{OF_BIASES}::test_contract",
    ),
    Mutant(
        "a fixed value at the lower bound",
        "static_max",
        "build.const((low + high) / 2)",
        "build.const(low)",
        first="tests/kernel/rewrites/test_static_max.py",
    ),
    Mutant(
        "distances with the wrong sign",
        "_floated",
        '"add" if count > 0 else "sub"',
        '"sub" if count > 0 else "add"',
        first="tests/kernel/rewrites/test_float_distances.py",
    ),
    Mutant(
        "division by an empty sum",
        "safe_div",
        "tl.where(b == 0.0, 0.0, a / tl.where(b == 0.0, 1.0, b))",
        "a / b",
        first="causal_bottom_right",
    ),
    Mutant(
        "tanh of negative numbers", "tanh", "t = tl.exp2(tl.abs(x) * (-2.0 * LOG2E))", "t = tl.exp2(x * (-2.0 * LOG2E))", first="softcap"
    ),
    Mutant("sigmoid mirrored", "sigmoid", "tl.exp2(-x * LOG2E)", "tl.exp2(x * LOG2E)", first="sigmoid_causal"),
    Mutant(
        "division rounds towards zero",
        "floor_div",
        "return quotient - (((a % b) != 0) & ((a < 0) != (b < 0))).to(tl.int32)",
        "return quotient",
        first="blocks",
    ),
    Mutant(
        "remainder has the sign of the dividend",
        "floor_mod",
        "tl.where((rest != 0) & ((rest < 0) != (b < 0)), rest + b, rest)",
        "rest + 0 * b",
        first="dilated",
    ),
    # Templates.
    Mutant(
        "last segment forgotten", "kernel.py.j2", "tl.static_range({{ kernel.segments }})", "tl.static_range({{ kernel.segments }} - 1)"
    ),
    Mutant(
        "every segment runs to the end",
        "walk",
        'ends = "begins[segment], ends[segment]"',
        'ends = "begins[segment], ends[-1]"',
    ),
    Mutant(
        "summed heads lose their last tile",
        "turns",
        'Code(f"tl.cdiv({length}, {block})")',
        'Code(f"(({length}) // {block})")',
    ),
    Mutant("a single program is not launched", "host.py.j2", "if programs > 0:", "if programs > 1:", first="needed"),
    Mutant("gradients that nobody needs", "host.py.j2", 'if "{{ finish.target }}" in needed:', "if True:", first="needed"),
    # Where tiles begin and end.
    Mutant("begin not rounded down", "_rounded", 'f"{lo} // {block} * {block}" if lo', 'f"{lo}" if lo', first="window"),
    Mutant(
        "begin rounded up", "_rounded", 'f"{lo} // {block} * {block}" if lo', 'f"tl.cdiv({lo}, {block}) * {block}" if lo', first="window"
    ),
    Mutant("end one short", "_rounded", 'else f"{end} = {hi}"', 'else f"{end} = {hi} - 1"', first="causal_bottom_right"),
    Mutant(
        "full tiles end too late",
        "_rounded",
        'last_full = f"{full_hi} // {block} * {block}"',
        'last_full = f"tl.cdiv({full_hi}, {block}) * {block}"',
    ),
    Mutant("full tiles end inside of a tile", "_rounded", 'last_full = f"{full_hi} // {block} * {block}"', 'last_full = f"({full_hi})"'),
    Mutant(
        "full tiles begin too early",
        "_rounded",
        "tl.maximum(tl.cdiv({full_lo}, {block}) * {block}, {begin})",
        "tl.maximum({full_lo} // {block} * {block}, {begin})",
    ),
    Mutant(
        "fewer full tiles than none",
        "_rounded",
        "{full_length} = tl.maximum({last_full} - {full_begin}, 0)",
        "{full_length} = {last_full} - {full_begin}",
        first="window",
    ),
    Mutant("the walk under masks meets a full tile", "_jump", "{start} >= {place}", "{start} > {place}", first="window"),
    Mutant(
        "the walk under masks does not jump",
        "_jump",
        ">= {place}, {distance}, 0)",
        ">= {place}, 0, 0)",
        first="window",
    ),
    Mutant(
        "pieces overlap",
        "_rounded",
        '{begin} = tl.maximum({start}, {before})" if i',
        '{begin} = {start}" if i',
        first="first_and_last",
    ),
    Mutant(
        "a piece ends inside of a tile",
        "_rounded",
        "tl.maximum(tl.cdiv({hi}, {block}) * {block}, {begin})",
        "tl.maximum({hi}, {begin})",
        first="pieces",
    ),
    Mutant(
        "no full tile behind the first piece",
        "_walks",
        '" + ".join(["full_begin", *lengths])',
        '"full_begin + full_length"',
        first="pieces",
    ),
    Mutant(
        "the gap of masked tiles between full ones", "_walks", "= {full_begin} - {full_end}", "= {full_begin} - full_begin", first="pieces"
    ),
    Mutant(
        "the last row is the first",
        "place",
        "tl.minimum(first_{axis} + {block}, len_{axis}) - 1",
        "tl.minimum(first_{axis} + 1, len_{axis}) - 1",
    ),
    Mutant(
        "the last row beyond the tensor",
        "place",
        "tl.minimum(first_{axis} + {block}, len_{axis}) - 1",
        "first_{axis} + {block} - 1",
        first="window",
        equivalent="bounds are clipped to the streamed axis, so that it only makes more tiles partial or visited",
    ),
    Mutant("tiles of the wrong head", "place", 'else f"pid % {tiles}"', 'else f"pid // {tiles}"'),
    Mutant("one position too many", "place", "ok_{axis} = offs_{axis} < len_{axis}", "ok_{axis} = offs_{axis} <= len_{axis}"),
    Mutant(
        "one streamed position too many",
        "offsets",
        "ok_{streamed} = offs_{streamed} < len_{streamed}",
        "ok_{streamed} = offs_{streamed} <= len_{streamed}",
    ),
    Mutant("one feature too many", "_columns", "ok_{part} = offs_{part} < {dim}", "ok_{part} = offs_{part} <= {dim}"),
    Mutant("masks in full tiles only", "guarded", "'==' if walked == FULL else '!='", "'!=' if walked == FULL else '=='"),
    # Pieces of feature axes, and sums of products.
    Mutant(
        "a product forgets those before", "Lowering.product", "str(name) if total is not None", '"" if total is not None', first=OF_PIECES
    ),
    Mutant("one piece stored", "statements", "for part in parts.stored[name]:", "for part in parts.stored[name][:1]:", first=OF_PIECES),
    Mutant(
        "positions within a piece",
        "_columns",
        "positions(part, first, ' + '.join((*before, size)))",
        "positions(part, '0', size)",
        first=OF_PIECES,
    ),
    Mutant("products joined that others need", "_joined", "if uses[name] > 1 or inside[name] > 1 or", "if", first=OF_PRODUCTS),
    # Divided warps.
    Mutant("a slot is filled before it was left", "put", "(turn // STAGES + 1) & 1", "(turn // STAGES) & 1", first=OF_SPECIALISED),
    Mutant(
        "a tile is taken before it is there", "take", "mbarrier.wait(ready.index(slot), (turn // STAGES) & 1)", "pass", first=OF_SPECIALISED
    ),
    Mutant("a slot is left by one group", "specialised_text", "workers=len(PARTS)", "workers=1", first=OF_SPECIALISED),
    Mutant("both groups compute the same rows", "Gluon.positions", 'f"PART * {end} + {own}"', "own", first=OF_SPECIALISED),
    Mutant("keys are left while products read them", "Queue.function", "return [*waits, *(f", "return [*(f", first=OF_SPECIALISED),
    Mutant(
        "values are never left",
        "Queue.function",
        'turn, STAGES)"), None) for ring in behind]',
        'turn, STAGES)"), None) for ring in behind[1:]]',
        first=OF_SPECIALISED,
    ),
    Mutant(
        "the loader fetches the tile of this turn",
        "_loader",
        '"turn + 1", position) for ring',
        '"turn + 1", f"start_{streamed}") for ring',
        first=OF_SPECIALISED,
    ),
    # Forms.
    Mutant("a tile of the wrong walk goes ahead", "next_tile", "({after} < ends[0], {name}", "({after} <= ends[0], {name}", first=OF_FORMS),
    Mutant(
        "a product apart forgets those before",
        "add_product",
        "tl.full((), 1.0, ACC), total)",
        "tl.full((), 1.0, ACC), 0.0)",
        first=OF_FORMS,
    ),
    Mutant(
        "a bias that went ahead is added again",
        "PrefetchedDots.function",
        'turn += ["if EARLY:"',
        'turn += ["if PIPE:"',
        first=f"{OF_BIASES}::{_AHEAD}",
    ),
    Mutant(
        "a bias apart is forgotten",
        "PrefetchedDots.function",
        'turn += ["if EARLY:"',
        'turn += ["if False:"',
        first=f"{OF_BIASES}::{_AHEAD}",
    ),
    Mutant("the tile of this turn goes ahead", "next_tile", 'f"start_{streamed} + {block}"', 'f"start_{streamed}"', first=OF_FORMS),
    Mutant(
        "a full tile goes ahead of an empty walk",
        "first_tile",
        "begins[0] < ends[0], {name}, {masked}",
        "begins[0] <= ends[0], {name}, {masked}",
        first=OF_FORMS,
    ),
    Mutant("descriptors of tensors that start anywhere", "host.py.j2", "place % 16 == 0", "place % 2 == 0", first=OF_FORMS),
    Mutant(
        "minus infinity in a full tile",
        "Online.floor",
        "writer.full is None or self.falls(",
        "writer.full is None or not self.falls(",
        first=OF_FORMS,
    ),
    # Addresses.
    Mutant("stores without masks", "_store", "{stored}, mask={' & '.join(masks)})\"", '{stored})"'),
    Mutant(
        "gradients of padding scattered",
        "_Store.elements",
        "*([tail] if tail else []), *self.inside]",
        "*([tail] if tail else [])]",
        first="flat",
    ),
    Mutant("colliding stores in place of sums", "_form", "if is_injective(at, axes):", "if at:", first="learned_bias"),
    Mutant("padded features loaded", "Loads.address", "masks += [ok] if axis in self.writer.shapes.padded else []", "masks += []"),
    Mutant(
        "32-bit offsets along the stream",
        "Loads.first",
        'return f"tl.cast(start_{axis}, tl.int64)" if axis == self.writer.kernel.streamed else f"start_{axis}"',
        'return f"start_{axis}"',
        first="far",
    ),
    Mutant(
        "32-bit offsets of resident tiles",
        "place",
        'f"start_{axis} = tl.cast(tl.cast(first_{axis}, tl.uint32), tl.int64)"',
        'f"start_{axis} = first_{axis}"',
        first="far",
    ),
    Mutant("32-bit offsets of gathers", "Loads.computed", 'else f"tl.cast({text}, {dtype})"', "else text", first="far"),
    Mutant(
        "32-bit offsets of heads",
        "place",
        "tl.cast({rest}{'' if outermost else f' % len_{name}'}, tl.int64)",
        "({rest}{'' if outermost else f' % len_{name}'})",
        first="far",
    ),
    Mutant(
        "gathers beyond the end",
        "Loads.computed",
        'masks.append(self.lifted(f"({text} < {end})", own, layout))',
        "pass",
        first="learned_bias",
    ),
    # Masks, sums and running maxima.
    Mutant("sums that do not follow their maximum", "Online.follow", 'value += f" * {alpha}" * power', "pass"),
    Mutant(
        "maximum of nothing",
        "finite",
        "return tl.where(nothing, 0.0, x)",
        "return x",
        first="causal_bottom_right",
    ),
    Mutant("a limit of rows beyond the end of the axis", "Masks.terms", "hi = smallest(span.hi, end, resident)", "hi = span.hi"),
    Mutant("limits measured from the first tile", "Masks.limit", "[which, bound]} - start_{stream})", "[which, bound]})"),
    Mutant("the last key of a row is masked", "Masks.terms", 'self.limit("until", hi)', 'self.limit("until", hi) + " - 1"'),
    Mutant("a limit itself is below it", "below", "a - b < 0", "a - b <= 0", first=f"{OF_FORMS}::test_forms_agree_to_the_bit"),
    Mutant(
        "the first key of a row is masked",
        "Masks.terms",
        'self.limit("from", span.lo)',
        'self.limit("from", span.lo) + " + 1"',
        first="window",
    ),
    Mutant(
        "what is left of a mask is forgotten", "Masks.terms", "return terms, build.both(*parts)", "return terms, None", first="documents"
    ),
    Mutant("maximum over missing scores", "Online.weight", 'tl.where({valid}, {seen}, float("-inf"))', "tl.where({valid}, {seen}, {seen})"),
    Mutant("weights of missing scores", "Lowering.define", "{name} = tl.where({self.masks.valid(exists)}, {name}, 0.0)", "{name} = {name}"),
    Mutant("summands that do not exist", "Lowering.selected", "if not zeroed:", "if False:", first="relu_window"),
    Mutant("a sink below the maximum", "Online.carry", "for floor in gauge.floor:", "for floor in ():", first="infinite"),
    Mutant(
        "offsets that do not follow their maximum",
        "Online.transported",
        "terms.append(f\"{count}{' * '.join([delta] * i)} * ",
        "(lambda text: None)(f\"{count}{' * '.join([delta] * i)} * ",
        first="entropy",
    ),
    Mutant(
        "offset from nothing",
        "Online.weight",
        'tl.where({name} == float("-inf"), 0.0, {name} - {name}_safe)',
        "{name} - {name}_safe",
        first="entropy",
    ),
    Mutant(
        "lower sums moved too early",
        "Online.transported",
        "{tensor_name(lower or '')}_old\"",
        "{tensor_name(lower or '')}\"",
        first="entropy",
    ),
    Mutant(
        "zero times infinity",
        "Zeros.is_finite",
        "return self.kernel.streamed in step.over or finite(step.body)",
        "return True",
        first="reciprocal",
    ),
    Mutant(
        "computed from what is not there",
        "Zeros.reaches",
        "case Read(tensor=name) if name in self.steps and name not in self.known:",
        "case Read(tensor=name) if False:",
        first=OF_ABSENT,
    ),
    Mutant(
        "zero where another mask fails",
        "Zeros.holds",
        "return name in self.known and self.known[name] == exists",
        "return name in self.known",
        first="every_other_value",
    ),
    Mutant(
        "zeroed for one sum, read by another",
        "Lowering.selected",
        "own and (zeroed or self.exists.get(expr.tensor) == exists)",
        "own",
        first="two_masks_of_sums",
    ),
    # The host.
    Mutant("sums in fp32 for fp64", "_lengths", "torch.float64 if {first}.dtype == torch.float64 else torch.float32", "torch.float32"),
    Mutant(
        "the last tile is not launched",
        "_launch",
        """grid = " * ".join([f'triton.cdiv({rows}, tile["BLOCK_{axis.upper()}"])'""",
        """grid = " * ".join([f'({rows} // tile["BLOCK_{axis.upper()}"])'""",
    ),
    Mutant(
        "scattered into fresh memory",
        "_allocate",
        "= torch.zeros({target}.shape, dtype={dtype}",
        "= torch.empty({target}.shape, dtype={dtype}",
        first="learned_bias",
    ),
    # Gradients by pairs.
    Mutant(
        "sums of tiles that never begin anew",
        "add_total",
        "else first[1:-1]}, 0.0, {name}) + {tile}",
        "else first[1:-1]}, {name}, {name}) + {tile}",
        first="learned_bias",
    ),
    Mutant("tiles stored before they are summed", "store_tiles", "== {writer.length(axis)} - 1)", "== 0)", first="learned_bias"),
    Mutant("every chunk is the first", "place", '"chunk_tiles", "chunk_begin + "', '"chunk_tiles", ""', first="relative"),
    Mutant("diagonals one column off", "host.py.j2", "(rows - 1) * column)", "rows * column)", first="relative"),
    Mutant("only the last of two gradients", "_finish", 'sign = "=" if number_ == 0 else "+="', 'sign = "="', first="table_twice"),
    Mutant("gathered twice, counted once", "_complete", "accumulate=True", "accumulate=False", first="table_twice"),
    Mutant("row values that nobody prepared", "_targets", "steps |= set(other.outputs)", "pass", first="needed"),
    # Ranges of masks.
    Mutant(
        "upper bound one short",
        "_solve",
        "return Interval(ZERO, rest.plus(constant(1)).expr())",
        "return Interval(ZERO, rest.expr())",
        first="causal_bottom_right",
    ),
    Mutant(
        "lower bound one short",
        "_solve",
        "Interval(constant(0).plus(rest, -1).expr(), ",
        "Interval(constant(1).plus(rest, -1).expr(), ",
        first="narrow",
    ),
    Mutant(
        "lower bound of a multiple",
        "_solve",
        "return Interval(build.neg(steps), Extent(axes.stream))",
        "return Interval(build.sub(build.const(1), steps), Extent(axes.stream))",
        first="from_a_third",
    ),
    Mutant(
        "upper bound of a multiple",
        "_solve",
        "return Interval(ZERO, build.add(steps, build.const(1)))",
        "return Interval(ZERO, steps)",
        first="up_to_a_third",
    ),
    Mutant(
        "some and all exchanged",
        "_extremes_of_sum",
        "low, high = bounds if factor > 0 else bounds[::-1]",
        "high, low = bounds if factor > 0 else bounds[::-1]",
    ),
    Mutant(
        "strict comparisons are not",
        "solve_comparison",
        "return _at_least_zero(difference.plus(constant(-1)), axes)",
        "return _at_least_zero(difference, axes)",
        first="strict",
    ),
    Mutant("full where one of two masks is", "both", "_meet(x.must, y.must, axes)", "_hull(x.must, y.must, axes)", first="window"),
    Mutant("visited where both of two masks hold", "_merged", "MayMust(_hull(a.may, b.may, axes)", "MayMust(_meet(a.may, b.may, axes)"),
    Mutant("one piece of two", "either", "        pieces.append(piece)", "        pieces = [piece]", first="pieces"),
    Mutant(
        "not of a conjunction",
        "_negation",
        'return build.apply("or", build.apply("not", a), build.apply("not", b))',
        'return build.apply("and", build.apply("not", a), build.apply("not", b))',
        first="outside",
    ),
    Mutant(
        "a condition on rows gates their tile by its first",
        "_at_least_zero",
        "return gate(compare_least(most, ZERO, axes.resident), compare_least(least, ZERO, axes.resident), axes)",
        "return gate(compare_least(most, ZERO, axes.resident), compare_least(most, ZERO, axes.resident), axes)",
        first="lengths",
    ),
    Mutant("a quotient at most x ends one step early", "_quotient", "steps.plus(constant(1)).expr()", "steps.expr()", first="blocks"),
    Mutant(
        "least and greatest of a tile exchanged",
        "_extremes",
        'axes.over_tile("least", expr), axes.over_tile("most", expr)',
        'axes.over_tile("most", expr), axes.over_tile("least", expr)',
        first="documents",
    ),
    # Lists of tiles, and documents.
    Mutant(
        "tiles under masks are not listed",
        "write_lists",
        "some_fail = any_holds * (1 - all_hold)",
        "some_fail = all_hold * (1 - all_hold)",
        first="dilated",
    ),
    Mutant("one pair makes a tile full", "write_lists", "tl.min(tl.min(pair_inside", "tl.max(tl.max(pair_inside", first="dilated"),
    Mutant("a full tile beyond the last key", "write_lists", "[:, None]) & ok_{streamed}[None, :]", "[:, None])", first="multiples"),
    Mutant(
        "lists overlap", "row_lines", "list_start = {lists} + list_row * list_length", "list_start = {lists} + list_row", first="dilated"
    ),
    Mutant("tiles under masks from the front", "_listed", "(0, list_length - list_masked)", "(0, 0)", first="every_other_value"),
    Mutant(
        "documents end at their last key",
        "host.py.j2",
        "(high - 1).clamp(min=0)) + 1)",
        "(high - 1).clamp(min=0)))",
        first="scattered_documents",
    ),
    Mutant(
        "scattered documents count as full",
        "host.py.j2",
        "torch.where(last - first == high - low, last, first)",
        "last",
        first="scattered_documents",
    ),
    Mutant("places of the first keys for all", "Loads.fetch_vector", "({whole}, start_{axis}, ok_", "({whole}, 0, ok_", first="documents"),
    Mutant("rows of places lie anywhere", "host.py.j2", "(0, -rows % 4)", "(0, 0)", first=f"{OF_FORMS}::test_documents_by_descriptors"),
    # Memory.
    Mutant(
        "integers as narrow as in memory",
        "integer",
        "primitive_bitwidth < 32",
        "primitive_bitwidth < 8",
        first="tests/e2e/test_calls.py::test_captured_integers_may_be_narrow",
    ),
    Mutant(
        "offsets inside of a tile wrap around",
        "host.py.j2",
        "(max(sizes) - 1) >= 2**31",
        "(max(sizes) - 1) >= 2**63",
        first="tests/kernels/test_far.py::test_positions_so_far_apart_that_a_tile_reaches_over_them",
    ),
    # Derivations.
    Mutant(
        "slope of tanh",
        "RULES",
        '("tanh", "tanh_small"), lambda x, y, d: (mul(d, sub(build.ONE, mul(y, y))),)',
        '("tanh", "tanh_small"), lambda x, y, d: (mul(d, sub(build.ONE, y)),)',
        first="softcap",
    ),
    Mutant("slope of relu", "RULES", 'apply("gt", x[0], build.ZERO)', 'apply("lt", x[0], build.ZERO)', first="relu_window"),
    Mutant("slope of a difference", "RULES", '"sub": lambda x, y, d: (d, neg(d))', '"sub": lambda x, y, d: (d, d)'),
    Mutant("factors lost in hoisting", "_terms", "_Term(left.coefficient * right.coefficient, ", "_Term(left.coefficient, "),
    Mutant(
        "tiles of the first sum only",
        "with_tile_masks",
        'may_mask = None if may_mask is None or mask is None else build.apply("or", may_mask, mask)',
        "may_mask = None if may_mask is None or mask is None else may_mask",
        first="two_masks",
    ),
    Mutant(
        "masks of operands forgotten",
        "contributions",
        "return build.both(known(step.body, exists), known(step.where, exists), step.where)",
        "return step.where",
        first="relu_window",
    ),
    Mutant(
        "sums of nothing that are something",
        "Lowering.product",
        "if step.name in self.dots_to_zero and",
        "if False and",
        first="scores_of_some",
    ),
    Mutant(
        "full tiles with zeros in them",
        "with_tile_masks",
        "must_mask = build.both(*masks, *dots_to_zero(kernel, exists).values())",
        "must_mask = build.both(*masks)",
        first="scores_of_some",
    ),
    # Schedules, which no result depends on: the tests of that folder are the suite.
    Mutant(
        "warps along the shorter side",
        "_chained",
        "if tile.resident >= columns else",
        "if tile.resident < columns else",
        first=f"{OF_SCHEDULES}/cost/test_warps.py::test_the_model_is_what_was_counted",
    ),
    Mutant(
        "a stage less than there are",
        "_wgmma",
        "ring, extra = parts.ring(tile.num_stages), parts.narrow",
        "ring, extra = parts.ring(tile.num_stages - 1), parts.narrow",
        first=f"{OF_SCHEDULES}/cost/test_time.py",
    ),
    Mutant(
        "64 rows are too few",
        "uses_wide_units",
        "tile.resident >= WIDE_ROWS and",
        "tile.resident > WIDE_ROWS and",
        first=f"{OF_SCHEDULES}/cost/test_time.py",
    ),
    Mutant(
        "twice the shared memory",
        "_excess",
        "if cost.shared_bytes > target.shared_bytes:",
        "if cost.shared_bytes > 2 * target.shared_bytes:",
        first=OF_SCHEDULES,
    ),
    Mutant(
        "blocks exchanged",
        "_launch_values",
        'values[f"BLOCK_{kernel.streamed.upper()}"] = tile.streamed',
        'values[f"BLOCK_{kernel.streamed.upper()}"] = tile.resident',
        first=f"{OF_SCHEDULES}/test_tile_schedule.py",
    ),
    Mutant(
        "the slowest first",
        "rank",
        "fits.sort(key=lambda item: (_expected_us(item),",
        "fits.sort(key=lambda item: (-_expected_us(item),",
        first=f"{OF_SCHEDULES}/test_choose.py::test_candidates_that_do_not_fit_come_last_and_say_which_bytes",
    ),
    Mutant(
        "powers of two padded",
        "tile_widths",
        "-(-length // _NARROWEST)",
        "(length // _NARROWEST + 1)",
        first="tests/kernel/test_feature_tiles.py",
    ),
    Mutant(
        "decoding ends a token early",
        "length_class",
        "if q_len <= DECODE_TOKENS:",
        "if q_len < DECODE_TOKENS:",
        first=f"{OF_SCHEDULES}/test_space.py",
    ),
    Mutant(
        "limits for the interpreter",
        "_lost",
        'return "" if request.dtype == "float64" else _excess(cost, request.target)',
        "return _excess(cost, request.target)",
        first=OF_SCHEDULES,
    ),
    Mutant(
        "a tile for another kernel",
        "ModuleSchedule.__getitem__",
        "if name == role:",
        "if name != role:",
        first=f"{OF_SCHEDULES}/test_choose.py::test_every_variant_gets_a_tile_for_each_kernel",
    ),
    # Random bits and biases of low rank.
    Mutant("one word for two columns", "random_bits", "lower = tl.where(column_bit != 0, c3, c2)", "lower = c2", first="dropout"),
    Mutant("nine rounds", "random_bits", "tl.static_range(10)", "tl.static_range(9)", first="dropout"),
    Mutant(
        "halves of a tile alone",
        "Writer.halves",
        'f"{half} = {start} // 2 + range_{axis} // 2"',
        'f"{half} = range_{axis} // 2"',
        first="dropout",
    ),
    Mutant(
        "draws that share their bits",
        "Trace.draw",
        'return Read(self.seed, (), "int"), self._draws - 1',
        'return Read(self.seed, (), "int"), 0',
        first="tests/frontend/test_dropout.py",
    ),
    Mutant(
        "gradients by the names of users",
        "Launcher.__init__",
        "self.emitted = {item.name: str(tensor_name(item.name))",
        "self.emitted = {item.name: item.name",
        first="tests/calls/test_torch_op.py",
    ),
    Mutant(
        "shared products without a program of their own",
        "broadcast_over_grid",
        "if all(cascade.axes(name) == axes",
        "if any(cascade.axes(name) == axes",
        first="low_rank",
    ),
    # Classes of equal remainder.
    Mutant(
        "all classes are the first",
        "_Move.position",
        "return build.add(build.mul(Index(axis), self.divisor), self.inner)",
        "return build.mul(Index(axis), self.divisor)",
        first=OF_CLASSES,
    ),
    Mutant(
        "keys behind the end of a class",
        "_Move.step",
        'build.apply("lt", self.position(self.dilation.axes[1]),',
        'build.apply("le", self.position(self.dilation.axes[1]),',
        first=OF_CLASSES,
    ),
    Mutant("remainders that differ", "_divisor", "if len(divisors) == 1 else None", "if divisors else None", first=OF_CLASSES),
    Mutant(
        "strides of classes and positions exchanged",
        "_by_class",
        ".unflatten(dim, (-1, divisor)).movedim(dim + 1, dim)",
        ".unflatten(dim, (divisor, -1))",
        first=OF_CLASSES,
    ),
    # A backward in one walk.
    Mutant("parts added behind the last row", "add", "mask=None if FULL else ok", "mask=None", first=f"{OF_ONE_WALK}::test_gradients"),
    Mutant(
        "keys behind the last one in a part",
        "Masks.terms",
        'terms += [f"ok_{resident}[:, None]"] if self.lowering.atomic_adds else []',
        "pass",
        first=f"{OF_ONE_WALK}::test_scores_far_below_zero",
    ),
    Mutant(
        "ragged tiles of keys taken for full",
        "_ragged",
        "if not kernel.atomic_adds or segments.count == 1:",
        "if segments.count > 0:",
        first=f"{OF_ONE_WALK}::test_scores_far_below_zero",
    ),
    Mutant(
        "ragged tiles of keys listed as full",
        "write_lists",
        'if kernel.atomic_adds else f"({every}',
        'if kernel.steps else f"({every}',
        first=f"{OF_ONE_WALK}::test_scores_far_below_zero",
    ),
    # Streams in parts.
    Mutant(
        "turns that two parts take",
        "_turns_of_part",
        "{part} * all_turns // len_{part}",
        "{part} * (all_turns // len_{part})",
        first=f"{OF_PARTS}::test_every_variant",
    ),
    Mutant(
        "masked turns that begin among the full ones",
        "_turns_of_part",
        'f"tl.maximum({turn} - full_turns, 0){step}"',
        'f"({turn} - full_turns){step}"',
        first=f"{OF_PARTS}::test_every_variant",
    ),
    Mutant(
        "a part that begins where others end",
        "_turns_of_part",
        'f"begins = (begins[0] + first_turn{step}, begins[1] + {first})"',
        'f"begins = (tl.minimum(ends[0], begins[0] + first_turn{step}), begins[1] + {first})"',
        first=f"{OF_PARTS}::test_forms",
    ),
    Mutant(
        "squares of weights that follow once",
        "_Merge.sum",
        "_power(build.read(self.gauges[gauge].weight, self.pair), power)",
        "build.read(self.gauges[gauge].weight, self.pair)",
        first=f"{OF_PARTS}::test_more_parts_than_a_turn_of_the_merge_takes",
    ),
    Mutant(
        "offsets of parts without keys",
        "_Merge.distance",
        'return build.apply("where", seen, build.read(gauge.offset or "", self.pair), build.ZERO)',
        'return build.read(gauge.offset or "", self.pair)',
        first=f"{OF_PARTS}::test_every_variant",
    ),
    # Captures that are read again.
    Mutant(
        "guards of what may change",
        "_Writer._tested",
        "if not fixed or not _holds(guard, value):",
        "if fixed and not _holds(guard, value):",
        first=f"{OF_PLACES}::test_what_decided_a_trace",
    ),
    Mutant(
        "numbers as they were when first read",
        "_Writer._in_range",
        'f"{last}[1] if {last}[0] is {text} else {scalar}({text})"',
        'f"{last}[1] if {last}[0] is not None else {scalar}({text})"',
        first=f"{OF_PLACES}::test_numbers_of_every_type",
    ),
    Mutant(
        "zeros of either sign as one number",
        "Scalar.__call__",
        "known == value and math.copysign(1.0, known) == math.copysign(1.0, value)",
        "known == value",
        first=f"{OF_PLACES}::test_numbers_of_every_type",
    ),
    Mutant(
        "lengths that decide a trace unguarded",
        "index",
        "        if isinstance(position.expr, Const):\n            observe(axis)",
        "        pass",
        first=f"{OF_PLACES}::test_lengths_that_decide_a_trace",
    ),
    Mutant(
        "methods of classes above untraced",
        "Lifter._fill_globals",
        'if "super" in names and "super" not in original:',
        'if "super" not in names:',
        first=f"{OF_PLACES}::test_globals_of_an_inherited_method",
    ),
    Mutant(
        "copies that read what the original holds",
        "_cell",
        "done[id(cell)] = cell if new is content else CellType(new)",
        "done[id(cell)] = cell",
        first=f"{OF_PLACES}::test_a_copied_module_reads_what_is_its_own",
    ),
    Mutant(
        "pickled closures without their module",
        "_Moved.origin",
        "if isinstance(value, torch.nn.Module) and _is_importable(type(value)):",
        "if value is None:",
        first=f"{OF_PLACES}::test_a_pickled_module_reads_what_is_its_own",
    ),
    Mutant(
        "forms for the numbers of the trace",
        "SpecForm.divisor",
        "value = captures.get(number, 0) if isinstance(number, str)",
        "value = {item.name: item.value for item in self.spec.captures}.get(number, 0) if isinstance(number, str)",
        first=f"{OF_CLASSES}::test_a_captured_number_of_classes_is_read_again",
    ),
    # What is deployed, stored and checked.
    Mutant("files of others replaced", "written_files", "in foreign_files(folder, manifest) if item.foreign", "in ()", first=OF_FOLDERS),
    Mutant("byte code believed", "check", ", *planted_byte_code(folder, manifest))", ",)", first=f"{OF_CHECKS}[planted_byte_code]"),
    Mutant("a folder held to any variant", "_of_catalogue", "and said in (name, None)", "", first=f"{OF_CHECKS}[of_another_variant]"),
    Mutant("files that are listed", "_compared", "manifest.files.keys() ^ {*emitted, *binaries}", "()", first=f"{OF_CHECKS}[{_LISTED}]"),
    Mutant("an entry of anybody", "read_entry", '_check_owner("it", os.fstat(descriptor))', "pass", first="tests/cache/test_entry.py"),
    Mutant(
        "a folder that is checked once",
        "held_directory",
        "    check_above(folder)\n    check_directory(folder)\n    descr",
        "    descr",
        first=OF_STORES,
    ),
    Mutant("files read a second time", "load_module", "if text is None else text", "", first="tests/cache/test_load.py"),
    Mutant("no logsumexp in strict mode", "_forms", "asked.append(with_lse(form))", "pass", first=f"{OF_COMMANDS}[wide]"),
    Mutant(
        "lengths in any order",
        "spelled_out",
        "','.join(map(str, sizes))",
        "','.join(map(str, sorted(sizes)))",
        first=f"{OF_COMMANDS}[wide]",
    ),
    Mutant("no tiles for short lengths", "Kernels._settle", 'strict and request.length != "long"', "strict and False", first=OF_STRICT),
    Mutant("finished values in a pass", "verify_streamed", "if sources & finished:\n", "if False:\n", first=OF_FORMS_CHECKED),
    Mutant("facts of other steps", "verify_facts", "if set(item.guards) != steps:\n", "if False:\n", first=OF_FORMS_CHECKED),
    Mutant("tiles that nobody chose", "verify_choice", "if tile != reasons[role].tile and", "if False and", first=OF_FORMS_CHECKED),
    Mutant("outputs that are not stored", "verify_lowered", "        if lost:\n", "        if False:\n", first=OF_FORMS_CHECKED),
    Mutant("strides of the dimension before", "_argument", ".stride({param.dim})", ".stride({param.dim - 1})"),
    # What is not there.
    Mutant(
        "right sides that are no number behind the end",
        "Lowering.summed_operand",
        "bounded = not self.zeros.is_settled(expr, axis)",
        "bounded = False",
        first=OF_ABSENT,
    ),
    Mutant(
        "right sides computed from garbage",
        "Lowering.summed_operand",
        "(bounded or self.zeros.is_garbage(expr, axis, kept))",
        "bounded",
        first=OF_ABSENT,
    ),
    Mutant(
        "sums over features of garbage are trusted",
        "Zeros.is_finite",
        "return self.kernel.streamed in step.over or finite(step.body)",
        "return bool(step.over) or finite(step.body)",
        first=OF_ABSENT,
    ),
    Mutant(
        "gradients of keys that nobody sees as they are computed",
        "Masks.stored_outside",
        "if keys_resident(kernel) and name not in kernel.atomic_adds",
        "if name in kernel.atomic_adds",
        first=OF_ABSENT,
    ),
    Mutant("cotangents of rows without keys", "silenced", "derived = set(cotangents)", "derived = set[str]()", first=OF_ABSENT),
    Mutant(
        "keys behind the end that rows see",
        "Masks.seen",
        "= tl.max(({valid} & {inside}).to(tl.int32), {0",
        "= tl.max({valid}.to(tl.int32), {0",
        first=OF_ABSENT,
    ),
    Mutant(
        "rows behind the last key see their own",
        "silent_rows",
        'seeing = (build.apply("le", Extent(forward.resident), Extent(keys)), *seeing)',
        "seeing = tuple(seeing)",
        first=f"{_ABSENT}::test_windows_of_any_lengths",
    ),
    Mutant(
        "negated parts of a mask as they are",
        "project_mask",
        'build.apply("not", weaker(a, not within))',
        'build.apply("not", weaker(a, within))',
        first=f"{_ABSENT}::test_what_masks_ask_of_one_position",
    ),
    Mutant(
        "a matrix that begins later ends as well",
        "row_count",
        "not left and interval.lo == ZERO and not changes",
        "not left and not changes",
        first=OF_ENDS,
    ),
    Mutant(
        "a matrix of all rows",
        "Loads.fetch",
        "length=end or writer.length(rows)",
        "length=writer.length(rows)",
        first=f"{_ABSENT}::test_descriptors_and_products_that_go_ahead",
    ),
    Mutant(
        "few queries that look for nothing",
        "has_few_rows",
        'return kernel.role == "forward_parts" or packed',
        "return False",
        first=f"{_ABSENT}::test_few_queries_of_several_heads",
    ),
    Mutant(
        "numbers that no storage type holds", "_applied", "return value if abs(value) <= _LARGEST else None", "return value", first=OF_ZEROS
    ),
    # Masks in other spellings, and how far captured tensors are read.
    Mutant("masks times factors of any sign", "_product", "if is_positive(other, known.signs):", "if True:", first=OF_MASKS),
    Mutant("masks times captured numbers below zero", "_product", 'build.apply("le", other,', 'build.apply("lt", other,', first=OF_MASKS),
    Mutant(
        "a masked score that some sum counts",
        "_Facts.notices",
        "return not broken and not any(",
        "return False and not any(",
        first=OF_MASKS,
    ),
    Mutant(
        "one of two terms that are 0",
        "_operation",
        "Absence(_any(x.zero, y.zero), _all(x.low, y.low), _all(",
        "Absence(_all(x.zero, y.zero), _all(x.low, y.low), _all(",
        first=OF_MASKS,
    ),
    Mutant("chance as a mask of tiles", "_Facts.bounds", 'node.op == "random_bits":', 'node.op == "":', first=OF_MASKS),
    Mutant("squares of any sign", "_square", "return frozenset(sign * sign for sign in of)", "return of", first="tests/ir/test_signs.py"),
    Mutant("lost zeros", "_Facts.weights", "found[step.name] = shared", "pass", first="tests/e2e/test_mask_spellings.py"),
    Mutant(
        "divisions by a mask", "_product", "_all(x.zero, y.low, y.high), _all(*low)", "_all(x.zero, y.zero), _all(*low)", first=OF_MASKS
    ),
    Mutant(
        "tables that end one too early", "short_tensors", "captures, extents) > size:", "captures, extents) > size + 1:", first=OF_REACH
    ),
    Mutant(
        "loads behind a short table",
        "_asking",
        'return build.apply("min", at, Extent(at.axis)) if isinstance(at, Index) else at',
        "return at",
        first=f"{OF_REACH}::test_a_mask_may_hide_what_is_behind_a_table",
    ),
    Mutant(
        "gradients at the other end of a clamp",
        "on_host",
        "'max' if op == 'min' else 'min'",
        "'min' if op == 'min' else 'max'",
        first=f"{OF_REACH}::test_clamped_positions",
    ),
    Mutant(
        "tables of other batches",
        "BlockTable.check",
        "if own not in (1, given):",
        "if own not in (1, given, 2):",
        first="tests/frontend/test_block_sparse.py::test_a_table_of_other_batches_or_heads_is_refused",
    ),
    Mutant(
        "tiles counted behind captured tensors",
        "Attention.mask_tiles",
        "form = now.form(False, True, now.whole.check_lengths(extents, captures))",
        "form = now.form(False, True)",
        first=f"{OF_TILES}::test_what_a_call_refuses_is_not_counted",
    ),
    Mutant(
        "bounds measured by all their parts",
        "_bounded",
        "len(set(islice(walk(bound), _MOST_NODES)))",
        "len(list(islice(walk(bound), _MOST_NODES)))",
        first="tests/analysis/test_intervals.py::test_equal_parts_of_bounds_count_once",
    ),
    Mutant(
        "parts of bounds outside of their function",
        "_scratch",
        "writer.stage, Stage.PROLOGUE, [], True",
        "writer.stage, Stage.PROLOGUE, [], False",
        first=f"{OF_TILES}::test_bounds_of_heads_that_a_kernel_sums_over",
    ),
    Mutant(
        "forms that a kernel lacks",
        "_is_plain",
        "return value is False and",
        "return not value and",
        first="tests/schedule/test_tile_schedule.py",
    ),
    # What cascades may combine: results of equal steps, statistics without some axes, gates, maxima, mixed dtypes.
    Mutant(
        "layouts of steps",
        "_Outputs._name",
        "step is not None and step.axes == axes and step.name",
        "step is not None and step.name",
        first="tests/frontend/test_cascade_function.py",
    ),
    Mutant(
        "features stored one after the other",
        "_store",
        'scaled(writer.loads.lifted(f"offs_{axis}", (axis,), layout), stride)',
        'writer.loads.lifted(f"offs_{axis}", (axis,), layout)',
        first=OF_KINDS,
    ),
    Mutant("statistics without axes of the grid", "_wide", "if (finished or step.name in exponents) and", "if False and", first=OF_KINDS),
    Mutant(
        "products over features without coefficients",
        "_dot",
        "product(rest, term.coefficient))",
        "product(rest))",
        first="tests/transform/test_factor.py",
    ),
    Mutant(
        "finished values summed over the grid",
        "_Tape.argument",
        "own = self.finished_and(axes, part) if wide",
        "own = axes if wide",
        first=OF_KINDS,
    ),
    Mutant(
        "ties that take a whole gradient each",
        "_Tape.shared",
        'build.apply("div", adjoint, count)',
        "adjoint",
        first="tests/transform/autodiff/test_differentiate.py::test_reductions_over_a_feature",
    ),
    Mutant(
        "maxima over features as sums",
        "Lowering.feature_reduction",
        'reduced = writer.dialect.row_sum if step.reduce == "sum" else writer.dialect.row_max',
        "reduced = writer.dialect.row_sum",
        first=f"{OF_MAXIMA}::test_over_features",
    ),
    Mutant(
        "padded features in maxima",
        "Lowering.feature_reduction",
        """"0.0" if step.reduce == "sum" else 'float("-inf")'""",
        '"0.0"',
        first=f"{OF_MAXIMA}::test_over_features",
    ),
    Mutant(
        "maxima of pairs that do not exist",
        "Sums.raise_maximum",
        """lowering.exists.get(step.name))}, {seen}, float("-inf"))""",
        """lowering.exists.get(step.name))}, {seen}, 0.0)""",
        first=OF_MAXIMA,
    ),
    Mutant(
        "maxima of parts added up",
        "_Merge.sum",
        "body, whole.reduce, (self.whole.split_axis,)",
        'body, "sum", (self.whole.split_axis,)',
        first=OF_MAXIMA,
    ),
    Mutant(
        "gradients through maxima that nobody derives",
        "check_cotangents",
        "if grad is not None and name in launcher.ungraded",
        "if grad is None and name in launcher.ungraded",
        first=OF_MAXIMA,
    ),
    Mutant(
        "numbers cast by autocast",
        "autocast",
        "tensor.dtype == torch.float32 and name in",
        "tensor.dtype is None and name in",
        first="tests/e2e/test_dtypes.py",
    ),
    Mutant(
        "gradients that no kernel computes left out in silence",
        "refuse_gradients",
        "if not refused or not torch.is_grad_enabled():",
        "if True:",
        first="tests/e2e/test_wanted.py",
    ),
    Mutant(
        "rows that no pair of a tile needs are read",
        "_Lowering.contribution",
        "if guard is not None:",
        "if guard is None:",
        first=f"{OF_ENGINE}::test_keys_that_nobody_sees_are_not_read",
    ),
    Mutant(
        "carried sums that do not follow their maximum",
        "Gauges.follow",
        "for _ in range(power):",
        "for _ in range(power - 1):",
        first=f"{OF_ENGINE}::test_every_variant_is_exact[softmax]",
    ),
    Mutant(
        "values that move from tile to tile hoisted",
        "_Splitter.operation",
        "and not self.moves(node):",
        "and not isinstance(node, Read):",
        first=f"{OF_ENGINE}::test_every_variant_is_exact[causal_alibi]",
    ),
    Mutant(
        "pieces of a mask visited twice where they overlap",
        "loop_tiles",
        "done = max(done, end)",
        "done = min(done, end)",
        first=f"{OF_ENGINE}::test_every_variant_is_exact",
    ),
    Mutant(
        "slices of keys that overlap",
        "slice_of",
        "min((number + 1) * size, length)",
        "min((number + 1) * size + 1, length)",
        first=f"{OF_ENGINE}::test_split_keys",
    ),
    Mutant(
        "masked elements keep their bits",
        "bits",
        ".neg_()",
        "",
        first=f"{OF_ENGINE}::test_every_variant_is_exact[causal_alibi]",
    ),
    Mutant(
        "gradients of places outside of a tensor",
        "scatter_keys",
        "return torch.where(inside, found, -1)",
        "return found",
        first=OF_LIBRARY,
    ),
    Mutant(
        "averages over no keys",
        "safe_div",
        ".masked_fill_(empty, 0)",
        "",
        first=OF_LIBRARY,
    ),
    Mutant(
        "memory that is written while it is still read",
        "_Printer.lifetimes",
        "self.dies[name] = place",
        "self.dies.setdefault(name, place)",
        first=f"{OF_ENGINE}::test_every_variant_is_exact",
    ),
    Mutant(
        "chunks that leave heads out",
        "chunks",
        "slice(i, min(i + step, length))",
        "slice(i, min(i + 1, length))",
        first=OF_LIBRARY,
    ),
)
