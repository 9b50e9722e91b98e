"""Random expressions of CEL over an answer's usage, for sched_formulas.py."""
# SPDX-License-Identifier: Apache-2.0
import math


class Cel:
    """Random expressions of CEL, each with its value: a number, a bool, or None for an error."""

    fields = {"usage.prompt_tokens": "prompt", "usage.completion_tokens": "completion", "usage.total_tokens": "total",
              "usage.prompt_tokens_details.cached_tokens": "cached"}

    def __init__(self, usage, r):
        self.usage, self.r = usage, r

    def wrap(self, text):
        return self.r.choice(("(%s)", "( %s )", "(%s // (\n)")) % text

    def number(self, depth):
        kind = self.r.randrange(7) if depth else self.r.randrange(2)
        if kind == 0:
            text = self.r.choice(("2", "0.5", "10.0", "1e2", ".25", "3"))
            return text, float(text)
        if kind == 1:
            text = self.r.choice(sorted(self.fields))
            return text, self.usage.get(self.fields[text])
        if kind == 2:
            t, v = self.number(depth - 1)
            return "-" + self.wrap(t), None if v is None else -v
        if kind == 3:
            (c, cv), (a, av), (b, bv) = self.truth(depth - 1), self.number(depth - 1), self.number(depth - 1)
            return self.wrap("%s ? %s : %s" % (self.wrap(c), self.wrap(a), self.wrap(b))), None if cv is None else av if cv else bv
        # a chain of two operators, so that precedence and grouping matter
        parts = [self.number(depth - 1) for _ in range(3)]
        ops = [self.r.choice("+-*/") for _ in range(2)]
        text = "%s %s %s %s %s" % (self.wrap(parts[0][0]), ops[0], self.wrap(parts[1][0]), ops[1], self.wrap(parts[2][0]))
        values = [v for _, v in parts]
        if None in values:
            return text, None
        if ops[1] in "*/" and ops[0] in "+-":
            return text, self.apply(ops[0], values[0], self.apply(ops[1], values[1], values[2]))
        return text, self.apply(ops[1], self.apply(ops[0], values[0], values[1]), values[2])

    @staticmethod
    def apply(op, a, b):
        if op == "/":
            if b == 0 or math.isnan(b):
                return math.nan if a == 0 or math.isnan(a) or math.isnan(b) else math.copysign(math.inf, a) * math.copysign(1, b)
            return a / b
        return a + b if op == "+" else a - b if op == "-" else a * b

    def truth(self, depth):
        kind = self.r.randrange(6) if depth else self.r.randrange(2)
        if kind == 0:
            v = self.r.random() < 0.5
            return str(v).lower(), v
        if kind == 1:
            text = self.r.choice(sorted(self.fields) + ["usage.prompt_tokens_details"])
            return "has(%s)" % text, self.fields.get(text, "cached") in self.usage
        if kind == 2:
            t, v = self.truth(depth - 1)
            return "!" + self.wrap(t), None if v is None else not v
        if kind == 3:
            (a, av), (b, bv) = self.number(depth - 1), self.number(depth - 1)
            op = self.r.choice(("<", "<=", ">", ">=", "==", "!="))
            if av is None or bv is None:
                return "%s %s %s" % (a, op, b), None
            return "%s %s %s" % (a, op, b), {"<": av < bv, "<=": av <= bv, ">": av > bv, ">=": av >= bv,
                                             "==": av == bv, "!=": av != bv}[op]
        (a, av), (b, bv) = self.truth(depth - 1), self.truth(depth - 1)
        decides = kind == 4  # || by true, && by false
        text = "%s %s %s" % (self.wrap(a), "||" if decides else "&&", self.wrap(b))
        if av is decides or bv is decides:
            return text, decides
        return text, None if av is None or bv is None else not decides
