// Before a commit: format, lint and types of both languages. Seconds; the tests are `npm test`.

import { run } from "./tools.ts";

run("cargo", ["fmt", "--all"]);
run("oxfmt", ["src", "scripts", "packaging", "test"]);
run("oxlint", ["--deny-warnings"]);
run("tsc", []);
run("cargo", ["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny=warnings"]);
console.log("ready: now `npm test`");
