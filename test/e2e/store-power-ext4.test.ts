// Power cuts while a store on ext4 changes: see store-power.ts.

import { testPowerCuts } from "./store-power.ts";

testPowerCuts("ext4");
