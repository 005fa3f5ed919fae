from try4 import *
def fit(name,X,thr=None,verbose=True):
    lr=LogisticRegression(C=10,max_iter=5000).fit(X[k],y[k],sample_weight=w[k]); coef,b=lr.coef_[0],lr.intercept_[0]
    e=X@coef+b; res={}
    for (s,r),v in zip(R,e): res.setdefault(s["name"],{}).setdefault(r["label"],[]).append(v)
    mx={s["name"]:max(max(v) for v in res[s["name"]].values()) for s in D}; nc={s["name"]:max(10,len(res[s["name"]])) for s in D}
    cl=[s for s in D if s["clean"] and s["fam"] not in("noise","lay")]
    v=np.array([mx[s["name"]] for s in cl]); loc,sc=stats.gumbel_r.fit(v)
    print(name,np.round(coef,2),round(b,2),"fit",round(loc,2),round(sc,2),"largest clean",np.round(np.sort(v)[-4:],2))
    for L,S in ((loc,sc),(loc+.05,.9),(loc,1.0)):
        P={s["name"]:1-np.exp(-np.exp(-(mx[s["name"]]-L)/S)) for s in D}
        g=lambda fam,clean:(sum(P[s["name"]]<.05 for s in D if s["fam"]==fam and s["clean"]==clean),sum(s["fam"]==fam and s["clean"]==clean for s in D))
        print(f"   loc {L:.2f} sc {S:.2f} clean"," ".join("%s %d/%d"%((n,)+g(n,True)) for n in ("digits","imagef","mnist5","lay","noise")),"att"," ".join("%s %d/%d"%((n,)+g(n,False)) for n in ("digits","imagef","mnist5","lay")), "total",sum(P[s['name']]<.05 for s in D if not s['clean']))
    return e
if __name__=="__main__":
    fit("0",np.c_[B,Dp,lg(rms(0)),small])
    fit("k",np.c_[B,Dp,lg(rmsv(kk)),small])
    fit(".5",np.c_[B,Dp,lg(rms(.5)),small])
    fit(".75",np.c_[B,Dp,lg(rms(.75)),small])
    fit("k p,m",np.c_[B,Dp,lg(rmsv(kk,1)),lg(rmsv(kk,0)),small])
    fit("k p,both",np.c_[B,Dp,lg(rmsv(kk,1)),lg(rmsv(kk)),small])
    fit("k .6",np.c_[B,Dp,lg(rmsv(kk,.6)),small])
