import numpy as np, shutil
from pathlib import Path
import layouts
lines=[]
for k,seed in enumerate(range(640,648)):
    rng=np.random.default_rng(seed); name=f"n{seed}"
    layouts.make(name,seed,{c:1.0 for c in range(10)})
    root=Path(f"/work/tmp/tr/lay/{name}/train")
    files=sorted(root.glob("*/*.png"))
    if k%2==0:
        for i in rng.permutation(len(files))[:int(.05*len(files))]:
            f=files[i]; c=int(f.parent.name); d=(c+rng.integers(1,10))%10; f.rename(root/str(d)/f.name)
        kind="flip"
    else:
        a,b=rng.permutation(10)[:2]
        own=[f for f in files if f.parent.name==str(a)]
        for i in rng.permutation(len(own))[:20]: own[i].rename(root/str(b)/own[i].name)
        kind="pair"
    lines.append(f"none {seed} imagefolder /work/tmp/tr/lay/{name} noise{kind}")
open("noise.txt","w").write("\n".join(lines))
