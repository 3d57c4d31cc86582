// The entry of the executable. `calque:host` is what native/host provides to it: a `Host`, the
// operations of the core, and the status that the process ends with once no job is left.

import { host, native, setExitCode } from "calque:host";

import { main } from "./app.ts";

setExitCode(await main(host, native));
