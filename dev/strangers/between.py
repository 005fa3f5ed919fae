from rejudge2 import *
import bdbench_datamodel.evidence as ev
G=[(Path(f).stem,load(f)) for f in sorted(glob.glob("/work/tmp/tr/sets4/*.pkl")) if Path(f.replace("sets4","f4")).exists() and "-none-" not in f]
print(len(G))
out={}
base=None
for b in (0,1.5,2,3,4,6):
    ev._BETWEEN=b; a=[]
    for n,g in G:
        j=judge(g); P=g["roles"]==1; m=int(.1*len(P)); top=np.argsort(-j.scores,kind="stable")[:m]
        a.append((roc_auc_score(P,j.scores),P[top].sum()/min(P.sum(),m),j.flagged[P].mean(),j.flagged[~P].mean()))
    a=np.array(a); out[b]=a; print(b,np.round(a.mean(0),4))
for i,(n,g) in enumerate(G):
    v=[out[b][i,0] for b in out]
    if max(v)-min(v)>.01: print(n[:55],np.round(v,3), "before",round(roc_auc_score(g["roles"]==1,g["judged"].scores),3))
