// Power cuts while a store on XFS changes: see store-power.ts.

import { testPowerCuts } from "./store-power.ts";

testPowerCuts("xfs");
