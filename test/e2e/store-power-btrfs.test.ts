// Power cuts while a store on btrfs changes: see store-power.ts.

import { testPowerCuts } from "./store-power.ts";

testPowerCuts("btrfs");
